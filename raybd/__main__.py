"""python -m raybd"""

from raybd.cli.commands import main

if __name__ == "__main__":
    main()
