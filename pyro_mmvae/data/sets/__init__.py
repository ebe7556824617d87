"""Data sets with a name: PolyMNIST in its variants, MNIST-SVHN-TEXT, and CelebA."""
