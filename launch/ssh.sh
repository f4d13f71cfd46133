#!/usr/bin/env bash
# One process on each host of a list, by plain ssh:
#
#   launch/ssh.sh "node1 node2" my.yml --mesh dp=8,tp=2 --save /shared/runs/mine
#
# The hosts have this folder and the run's under the same paths, and need no password. The first is
# process 0, which listens at $PORT (29500). $PYTHON is the interpreter (.venv/bin/python) and $SSH
# the command with its options. Ctrl-C here reaches process 0: all save and end. A process that dies
# starts again by itself, $RESTARTS times (3), and the others with it.
set -uo pipefail
read -ra hosts <<<"$1"
shift
here=$(cd "$(dirname "$0")/.." && pwd)
port=${PORT:-29500}
read -ra ssh <<<"${SSH:-ssh}"
note=/tmp/jaxneox.$(id -un).$port.pid # on the first host

command=("${PYTHON:-$here/.venv/bin/python}" train.py --coordinator "${hosts[0]}:$port"
         --num-processes "${#hosts[@]}" --restarts "${RESTARTS:-3}")
ends=()
for i in "${!hosts[@]}"; do
  words=$(printf '%q ' "${command[@]}" --process-id "$i" "$@")
  keep=$([ "$i" = 0 ] && echo "echo \$\$ >$note;")
  "${ssh[@]}" "${hosts[$i]}" "cd $(printf %q "$here") && $keep exec $words" </dev/null &
  ends+=($!)
done
trap '"${ssh[@]}" "${hosts[0]}" "kill -TERM \$(cat $note)" </dev/null' INT TERM

status=0
for end in "${ends[@]}"; do
  while kill -0 "$end" 2>/dev/null; do wait "$end"; done
  wait "$end" || status=$?
done
exit $status
