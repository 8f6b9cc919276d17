"""The public path of `examples/article.py`: `--adapter sftref.conformance.adapters.article:pmap`."""

from .examples.article import Article, mesh, mesh_dropout, pmap, pmap_dropout

__all__ = ["Article", "mesh", "mesh_dropout", "pmap", "pmap_dropout"]
