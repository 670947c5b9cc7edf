from rsdnet.errors import command
from rsdnet.export.export import main

command(main)
