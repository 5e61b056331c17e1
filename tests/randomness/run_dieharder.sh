#!/bin/sh
# All dieharder tests on one stream of the compiled core. Takes an hour or more for each stream.
#
#   tests/randomness/run_dieharder.sh masks|words [SEED]
#
# Needs dieharder (a Debian package) and an environment in which dropcore is installed; PYTHON names
# another interpreter. The log is build/randomness/STREAM-SEED.log; its counts are printed at the
# end. Of some 114 p-values one or two in a hundred are WEAK by chance: look at a WEAK again with
# another seed. A FAILED is a failure.
set -eu

stream=${1:?usage: $0 masks|words [SEED]}
seed=${2:-1}
here=$(cd "$(dirname "$0")" && pwd)
logs=$here/../../build/randomness
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$here/../../.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python3
fi
command -v dieharder >/dev/null || { echo "dieharder is not installed" >&2; exit 1; }

mkdir -p "$logs"
log=$logs/$stream-$seed.log
{
    "$PYTHON" -c 'import dropcore, platform; i = dropcore.build_info()
print("# dropcore", dropcore.__version__, i["isa"], platform.machine())'
    echo "# $stream, seed $seed, started $(date -u +%Y-%m-%dT%H:%MZ)"
} >"$log"
"$PYTHON" "$here/feed.py" "$stream" --seed "$seed" | dieharder -a -g 200 >>"$log"
echo "# ended $(date -u +%Y-%m-%dT%H:%MZ)" >>"$log"

for verdict in PASSED WEAK FAILED; do
    echo "$verdict $(grep -c "$verdict" "$log" || true)"
done
! grep -q FAILED "$log"
