"""`python -m deconvseg`: the same as the command `deconvseg`."""

from deconvseg.cli import main

main()
