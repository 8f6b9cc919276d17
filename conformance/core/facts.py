"""What a check measures in addition to its comparisons: the entries of `facts` in a report."""

from typing import NotRequired, TypedDict


class Floor(TypedDict):
    """A detection floor, as `floors.py` defines it; `least_sensitive` names a comparison."""

    all: float
    tensor: float
    element: float
    noise: float
    least_sensitive: NotRequired[str]


class Explained(TypedDict):
    """Which variants of the oracle explain a trainer's numbers (`oracle/variants`); margins are error over bound."""

    by: list[list[str]]  # any one of these combinations; empty if none explains the numbers
    nearest: list[str]  # the combination that comes nearest
    what: str  # the first result that is not the oracle's
    before: float  # its margin
    after: float  # the margin that is left, of the first of `by` or of `nearest`
    left: str  # of which result
    tried: int  # how many combinations were compared
    measured: list[str]  # sentences about the first result that is not the oracle's
    place: NotRequired[str]  # where the run parts from the oracle's: an id of `judge/places.toml`, or empty


class Facts(TypedDict, total=False):
    """The measurements of one check; all entries are optional."""

    # In any check.
    adapter_frames: list[str]  # where the adapter raised: its last frames, the innermost last
    compile_seconds: float
    diagnosis_ended: str  # the exception with which the search for a cause ended, if it did
    control_margin: float  # the smallest error in `Check.distinct`, in units of the bound
    explained: Explained  # after a failure of a trainer
    fails: list[str]  # simplified variants that fail too, after a failure
    floor: dict[str, Floor]  # dtype -> its detection floor
    held_before: list[str]  # comparisons that passed before one failed
    holds: list[str]  # simplified variants that pass by far, after a failure
    margins: dict[str, float]  # simplified variant -> its largest error in units of the bound, after a failure
    off_by: float  # relative l2 error of the failed comparison
    out_of_memory: str  # the message by which memory ran out, with what was needed
    optimized: bool  # False if programs were compiled without optimizations
    stderr: list[str]  # last lines of a process that hung or crashed
    unclaimed: str  # a capability that the law needs and the trainer does not claim
    unseen: list[str]  # comparisons that pass even if every value is doubled
    # Rung 0.
    devices: list[str]
    kind: str
    lines: int  # how many lines XLA printed as messages
    platform: str
    runtime: str
    unused: dict[str, str]  # versions of installed plugins that JAX does not use
    mismatches: list[str]  # packages of releases that may not go together
    versions: dict[str, str]
    # Rung 1.
    arguments_taken_over: int  # donated arguments whose memory the program reused
    followed: dict[str, float]  # share of device arrays that changed with the host's buffer
    hazard: str  # what can happen if the host's buffer is reused
    # Rungs 2 and 3.
    collectives: dict[str, str]  # program -> the collectives that the partitioner inserted
    declared: str  # jax_default_matmul_precision
    dropped: list[str]  # maxima and minima over devices that lose NaN
    less_than_float32_exists_here: bool
    ones_added_to_one_row: dict[str, float]  # dtype -> the sum of a thousand ones or more by scatter-add
    precision: dict[str, str]  # way to call a matrix product -> its precision
    uneven: str  # what becomes of a sharding constraint that does not divide a result
    unwaited: str  # how steps that were not waited for ended, in a child process
    # Rung 7: the lowered modules in words, by platform.
    cpu: str
    cuda: str
    rocm: str
    tpu: str
    elements: dict[str, int]  # moved by collectives in an update
    layouts: list[str]
    # Rungs 8 to 10.
    left_out: list[str]  # laws that the trainer's capabilities exclude
    losses: list[float]
    programs: int
    scores: list[str]  # what wrong scores are, by the known mistakes
    rows: list[str]  # the combinations of settings that `training.settings` ran
    told: list[str]  # how each process ended after another was killed
