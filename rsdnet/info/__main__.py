from rsdnet.errors import command
from rsdnet.info.info import main

command(main)
