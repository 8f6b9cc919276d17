"""The table of real releases, from the metadata of the package index."""
