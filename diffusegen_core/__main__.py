"""`python -m diffusegen_core` is the command `diffusegen`."""

from diffusegen_core.cli import main

if __name__ == "__main__":
    main()
