"""Versions of distributions -> conflicts between jax, jaxlib and the accelerator plugins, without importing JAX.

A conflict is broken if the rules of jax or jaxlib itself refuse these versions, a risk if they may not work, and a note
if nothing better exists. What is not in `releases.toml` is never broken on a guess.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .releases import Rules, halves, install, jax_row, loads, published, rules
from .releases import release as release  # other modules import it from here

PLUGIN = re.compile(r"jax-[a-z]+[0-9]*-(plugin|pjrt)")
BROKEN, RISK, NOTE = LEVELS = "broken", "risk", "note"
VENDORS = {"cuda": "nvidia", "rocm": "amd"}
# What an installation lacks without one half, by the missing half. The entry point is in the PJRT half.
LACKS = {
    "pjrt": "JAX does not see the plugin, and runs on the CPU",
    "plugin": "JAX lists the devices but has no kernels of its own for them",
}
JAXLIB_RULE = "https://github.com/jax-ml/jax/blob/main/jaxlib/plugin_support.py"
NEWER_RULE = "https://github.com/ROCm/rocm-jax/pull/130"
PLUGIN_RULE = "https://github.com/jax-ml/jax/pull/32115"


@dataclass(frozen=True)
class Conflict:
    """Two versions that do not go together, or may not."""

    level: str  # one of `LEVELS`
    what: str  # the packages and versions, and what JAX does with them
    next: str  # a command with releases that exist
    vendor: str | None = None  # whose devices it is about; None: JAX itself
    source: str = JAXLIB_RULE  # where this rule is


def plugins(versions: Mapping[str, str]) -> dict[str, str]:
    """The accelerator plugins among installed packages, with their versions, by normalised name."""
    return {name: version for name, version in versions.items() if PLUGIN.fullmatch(name)}


def conflicts(versions: Mapping[str, str], least_jaxlib: str) -> list[Conflict]:
    """All conflicts between these versions; `least_jaxlib` is the oldest jaxlib that this jax accepts."""
    jax, jaxlib = versions["jax"], versions["jaxlib"]
    found = list(_jaxlib(jax, jaxlib, least_jaxlib))
    known = rules(jaxlib)
    python = versions.get("python", "3.11")
    for family, parts in halves(versions).items():
        own = list(_plugin(family, parts["plugin"], versions, known)) if "plugin" in parts else []
        # What installs the right plugin brings its other half.
        found += own if own and len(parts) == 2 else [*own, *_halves(family, parts, jax, python)]
    return [*found, *_libtpu(versions)]


def _advice(jax: str, family: str, python: str) -> str:
    command = install(jax, family, python)
    if command is None:
        return f"ask the vendor for jax-{family}-plugin for jax {jax}: PyPI has none for Python {python}"
    return command


def _jaxlib(jax: str, jaxlib: str, least: str) -> Iterator[Conflict]:
    if not release(least) <= release(jaxlib) <= release(jax):
        needs = f"needs jaxlib {least} to {jax}"
        pinned = f"pip install jax=={jax} jaxlib=={jax}" if _has_jaxlib(jax) else f"pip install --upgrade jax=={jax}"
        yield Conflict(BROKEN, f"jaxlib {jaxlib} does not match jax {jax}, which {needs}", pinned,
                       source="https://docs.jax.dev/en/latest/jep/9419-jax-versioning.html")  # fmt: skip


def _has_jaxlib(jax: str) -> bool:
    """Whether a jaxlib of this release of jax exists; jax 0.5.2, for example, has none."""
    row = jax_row(jax)
    return row is not None and release(row[2]) == release(jax)


def _halves(family: str, parts: Mapping[str, str], jax: str, python: str) -> Iterator[Conflict]:
    runtime = re.sub(r"\d", "", family)
    vendor = VENDORS.get(runtime)
    if len(parts) == 1:
        here, version = next(iter(parts.items()))
        missing = "plugin" if here == "pjrt" else "pjrt"
        what = f"jax-{family}-{here} {version} without jax-{family}-{missing}: {LACKS[missing]}"
        level = BROKEN if vendor else RISK
        yield Conflict(level, what, f"pip install jax-{family}-{missing}=={version}", vendor)
    elif release(parts["plugin"]) != release(parts["pjrt"]):
        what = f"jax-{family}-pjrt {parts['pjrt']} is not of the release of jax-{family}-plugin {parts['plugin']}"
        yield Conflict(RISK, what, _advice(jax, family, python), vendor)


def _plugin(family: str, version: str, versions: Mapping[str, str], known: Rules | None) -> Iterator[Conflict]:
    jax, jaxlib, python = versions["jax"], versions["jaxlib"], versions.get("python", "3.11")
    name, runtime = f"jax-{family}-plugin", re.sub(r"\d", "", family)
    vendor = VENDORS.get(runtime)
    advice = _advice(jax, family, python)
    same = release(version) == release(jaxlib)
    if known and family not in known.names and not (known.any_rocm and runtime == "rocm"):
        source = loads(jaxlib, family, version)
        what = f"jaxlib {jaxlib} does not know {name} {version}"
        if source:
            yield Conflict(RISK, f"{what}, but others report that it loads", advice, vendor, source)
        elif vendor:
            yield Conflict(BROKEN, f"{what}: the devices are listed, but jaxlib's kernels for them are missing", advice,
                           vendor, "https://github.com/ROCm/jax/pull/823")  # fmt: skip
    elif not same and runtime == "cuda" and (known is None or runtime in known.checked):
        what = f"{name} {version} does not match jaxlib {jaxlib}, which uses plugins of its own release only"
        yield Conflict(BROKEN, what, advice, vendor)
    elif not same and vendor:
        # jaxlib 0.5.3 to 0.9.0.1 skips a ROCm plugin's kernels too, but its PJRT half works without them.
        skipped = known is not None and runtime in known.checked
        nearer = [each for each in published(family, python) if release(version) < release(each) <= release(jax)]
        what = f"{name} {version} is not of the release of jaxlib {jaxlib}"
        if release(version) > release(jax):
            yield Conflict(RISK, f"{what}: it is newer than jax {jax}, and may not load", advice, vendor, NEWER_RULE)
        elif skipped or nearer:
            yield Conflict(RISK, f"{what}; it may lack kernels", advice, vendor, PLUGIN_RULE)
        else:
            what += ", and the newest that there is for it"
            yield Conflict(NOTE, what, "nothing, if `sftref verify` passes", vendor, PLUGIN_RULE)


def _libtpu(versions: Mapping[str, str]) -> Iterator[Conflict]:
    jax, tpu, nightly = versions["jax"], versions.get("libtpu"), versions.get("libtpu-nightly", "cleanup")
    row = jax_row(jax)
    advice = f"pip install 'jax[tpu]=={jax}'" if row else "pip install --upgrade 'jax[tpu]'"
    if tpu and row and release(tpu)[: len(release(row[3]))] != release(row[3]):
        what = f"libtpu {tpu} is not the one of jax {jax}, which needs libtpu {row[3]}"
        yield Conflict(RISK, what, advice, "google", "https://docs.jax.dev/en/latest/installation.html")
    # jax 0.5.0 itself requires an empty libtpu-nightly, which removes an older one.
    if tpu and "cleanup" not in nightly:
        what = f"libtpu {tpu} and libtpu-nightly {nightly} install the same files"
        remedy = f"pip uninstall -y libtpu-nightly libtpu && {advice}"
        yield Conflict(RISK, what, remedy, "google", "https://github.com/AI-Hypercomputer/maxdiffusion/pull/471")
