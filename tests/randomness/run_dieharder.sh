#!/bin/sh
# All dieharder tests on one stream of the compiled core. Takes an hour or so for each stream.
#
#   tests/randomness/run_dieharder.sh words|masks [SEED [KEEP]]
#
# KEEP, 0.5 by default, is that of the masks; at any other one their bits are made fair by debias.c.
# Needs dieharder (a Debian package), a C compiler, and an environment in which dropcore is
# installed; PYTHON names another interpreter. TESTS chooses single tests by their number
# and, behind a colon, their ntuple (`TESTS="15 203:4" ...`; dieharder -l lists them) where all are
# not wanted, to repeat a WEAK one.
# The log is build/randomness/STREAM-KEEP-SEED.log; its counts are printed at the end. Of some 114
# p-values one or two in a hundred are WEAK by chance: look at a WEAK again with another seed.
# A FAILED is a failure.
set -eu

stream=${1:?usage: $0 words|masks [SEED [KEEP]]}
seed=${2:-1}
keep=${3:-0.5}
here=$(cd "$(dirname "$0")" && pwd)
logs=$here/../../build/randomness
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$here/../../.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python3
fi
command -v dieharder >/dev/null || { echo "dieharder is not installed" >&2; exit 1; }

mkdir -p "$logs"
log=$logs/$stream-$keep-$seed.log
fair=cat
if [ "$stream" = masks ] && [ "$keep" != 0.5 ]; then
    fair=$logs/debias
    "${CC:-cc}" -O2 -o "$fair" "$here/debias.c"
fi
{
    "$PYTHON" -c 'import dropcore, platform; i = dropcore.build_info()
print("# dropcore", dropcore.__version__, "contract", i["contract"], i["isa"], platform.machine())'
    echo "# $stream, keep $keep, seed $seed, started $(date -u +%Y-%m-%dT%H:%MZ)"
} >"$log"
test_numbers() {
    if [ -z "${TESTS:-}" ]; then echo "-a"; else for n in $TESTS; do echo "-d $n" | sed "s/:/ -n /"; done; fi
}
test_numbers | while read -r which; do
    # shellcheck disable=SC2086  # options and their values
    "$PYTHON" "$here/feed.py" "$stream" --seed "$seed" --keep "$keep" | "$fair" |
        dieharder $which -g 200 >>"$log"
done
echo "# ended $(date -u +%Y-%m-%dT%H:%MZ)" >>"$log"

for verdict in PASSED WEAK FAILED; do
    echo "$verdict $(grep -c "$verdict" "$log" || true)"
done
! grep -q FAILED "$log"
