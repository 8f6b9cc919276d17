"""A compact reference of data-parallel BERT fine-tuning in JAX, and the conformance kit built on it."""

from pathlib import Path

__version__ = "0.1.0"

# In a clone the kit is beside this package instead of in it; `sftref.conformance` is then the folder ../conformance.
_HERE = Path(__file__).parent
if not (_HERE / "conformance").exists() and (_HERE.parent / "conformance" / "VERSION").is_file():
    __path__.append(str(_HERE.parent))
