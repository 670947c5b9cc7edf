from rsdnet.errors import command
from rsdnet.ingest.ingest import main

command(main)
