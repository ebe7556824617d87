"""``python -m pyro_mmvae``."""

from pyro_mmvae.cli import main

if __name__ == "__main__":
    main()
