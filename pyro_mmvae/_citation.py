"""The reference of the paper whose formulation the package implements."""

CITATION = """@inproceedings{qiu2025barycentric,
  title     = {Multimodal Variational Autoencoder: a Barycentric View},
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
