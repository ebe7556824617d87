"""The references of the package and of the paper whose formulation it implements."""

CITATION = """@inproceedings{qiu2025barycentric,
  title     = {Multimodal Variational Autoencoder: A Barycentric View},
  author    = {Qiu, Peijie and Zhu, Wenhui and Kumar, Sayantan and Chen, Xiwen and Yang, Jin and Sun, Xiaotong and
               Razi, Abolfazl and Wang, Yalin and Sotiras, Aristeidis},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume    = {39},
  number    = {19},
  pages     = {20060--20068},
  year      = {2025},
  doi       = {10.1609/aaai.v39i19.34209},
  note      = {arXiv:2412.20487}
}"""
"""The paper whose formulation the package implements, as BibTeX."""


def software_citation(version: str) -> str:
    """Return the BibTeX entry of the package.

    Args:
        version: The version to cite, as ``pyro_mmvae.__version__`` is one.
    """
    return f"""@software{{pyro_mmvae,
  title     = {{pyro\\_mmvae: multimodal variational autoencoders as barycenters, in Pyro}},
  author    = {{{{The pyro\\_mmvae contributors}}}},
  version   = {{{version}}}
}}"""
