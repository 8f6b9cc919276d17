#!/usr/bin/env bash
# JAX 0.10.2 and lineax 0.1.1, with SciPy 1.17.1 and NumPy 2.4.6, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `jax.scipy.sparse.linalg.cg`, `gmres` and `bicgstab` return the starting point, 0 by default, if the
# right-hand side or the matrix has a NaN: "the residual is above the tolerance" is false for NaN, so the loop ends
# before its first step. `lineax.linear_solve` with `CG` does the same and reports success; its GMRES, Cholesky and LU
# raise ("received non-finite input"), as `CG` does for infinity.
# Expected: NaN, as from SciPy: JAX documents that the numerics of `cg` and `bicgstab` match SciPy's. From lineax an
# error, since `throw` is on by default and is documented to report any failure.
# Who meets this: anyone with a Newton-CG, Gauss-Newton or implicit-gradient step. A gradient with NaN becomes an update
# of 0: no check of the updates sees it, and the run stands still.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 lineax==0.1.1 equinox==0.13.8 scipy==1.17.1 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
scipy cg: sound 1.0 1.0, NaN on the right nan nan, NaN in the matrix nan nan
jax.scipy cg: sound 1.0 1.0, NaN on the right 0.0 0.0, NaN in the matrix 0.0 0.0
scipy gmres: sound 1.0 1.0, NaN on the right nan nan, NaN in the matrix nan nan
jax.scipy gmres: sound 1.0 1.0, NaN on the right 0.0 0.0, NaN in the matrix 0.0 0.0
scipy bicgstab: sound 1.0 1.0, NaN on the right nan nan, NaN in the matrix nan nan
jax.scipy bicgstab: sound 1.0 1.0, NaN on the right 0.0 0.0, NaN in the matrix 0.0 0.0
lineax CG: sound 1.0 1.0, NaN on the right 0.0 0.0, NaN in the matrix 0.0 0.0
lineax GMRES: sound 1.0 1.0, NaN on the right error, NaN in the matrix error
lineax Cholesky: sound 1.0 1.0, NaN on the right error, NaN in the matrix error
lineax LU: sound 1.0 1.0, NaN on the right error, NaN in the matrix error
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import equinox
import jax.numpy as jnp
import jax.scipy.sparse.linalg
import lineax
import numpy
import scipy.sparse.linalg

matrix = numpy.array([[2.0, 1.0], [1.0, 3.0]], numpy.float32)
right = numpy.array([3.0, 4.0], numpy.float32)
broken_matrix, broken_right = matrix.copy(), right.copy()
broken_matrix[0, 0] = broken_right[1] = numpy.nan
systems = ((matrix, right), (matrix, broken_right), (broken_matrix, right))


def solved(solve):
    answers = []
    for a, b in systems:
        try:
            answers.append(" ".join(f"{float(x):.1f}" for x in solve(a, b)))
        except equinox.EquinoxRuntimeError:
            answers.append("error")
    return "sound {}, NaN on the right {}, NaN in the matrix {}".format(*answers)


def by_lineax(solver):
    def solve(a, b):
        operator = lineax.MatrixLinearOperator(jnp.asarray(a), lineax.positive_semidefinite_tag)
        return lineax.linear_solve(operator, jnp.asarray(b), solver).value

    return solve


for name in ("cg", "gmres", "bicgstab"):
    for library in (scipy, jax.scipy):
        method = getattr(library.sparse.linalg, name)
        print(f"{library.__name__} {name}: {solved(lambda a, b: method(a, b)[0])}")
for solver in (lineax.CG(1e-5, 1e-5), lineax.GMRES(1e-5, 1e-5), lineax.Cholesky(), lineax.LU()):
    print(f"lineax {type(solver).__name__}: {solved(by_lineax(solver))}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
