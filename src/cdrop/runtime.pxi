# Instruction set and threads.

def _available():
    """Processors that this process may use: affinity, then the cgroup's quota."""
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        available = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            available = min(available, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:
                quota = int(file.read())
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
                period = int(file.read())
            if quota > 0:
                available = min(available, max(1, -(-quota // period)))
        except (OSError, ValueError):
            pass
    return available


def isas():
    """Instruction sets that can run here, best first."""
    cdef const char *name = cdrop_isa_at(0)
    found = []
    while name != NULL:
        found.append(name.decode())
        name = cdrop_isa_at(<int> len(found))
    return found


cdef list known_isas():
    cdef const char *const *name = cdrop_known_isas()
    found = []
    while name[0] != NULL:
        found.append(name[0].decode())
        name += 1
    return found


def isa():
    """The instruction set in use."""
    return cdrop_active.name.decode()


def set_isa(str name):
    """Use another instruction set from now on."""
    cdef bytes encoded = name.encode()
    if cdrop_use_isa(encoded) != 0:
        why = "cannot run on this machine" if name in known_isas() else "is not known"
        raise ValueError(f"instruction set {name!r} {why}: choose one of {', '.join(isas())}")


def has_openmp():
    return bool(cdrop_has_openmp())


def max_threads():
    return cdrop_max_threads()


def set_threads(int n):
    cdrop_set_threads(n)


def last_team_size():
    """How many threads the latest parallel region had."""
    return cdrop_last_team()


cdrop_set_available(_available())
if cdrop_has_small_stacks():
    warnings.warn("OMP_STACKSIZE gives OpenMP's threads less than 64 KB of stack, too little for "
                  "dropcore's kernels: dropcore runs on one thread", RuntimeWarning, stacklevel=2)
cdrop_use_isa(NULL)
if os.environ.get("DROPCORE_ISA"):
    try:
        set_isa(os.environ["DROPCORE_ISA"])
    except ValueError as error:
        raise ImportError(f"DROPCORE_ISA: {error}") from None
