"""python -m raybd"""

from raybd.cli import main

if __name__ == "__main__":
    main()
