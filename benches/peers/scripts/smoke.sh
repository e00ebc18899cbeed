#!/bin/bash
# smoke.sh [ENGINE...]   every workload on 20,000 rows; fails on any wrong answer. Under a minute.
# Without engines: null, mem, and Esker if the binary has it. PEERS=path picks the binary; without it
# the script builds one, with FEATURES (such as FEATURES=esker) and nothing else.
set -euo pipefail
HERE=$(cd "$(dirname "$0")/.." && pwd)
BIN=${PEERS:-}
if [ -z "$BIN" ]; then
  (cd "$HERE" && cargo build --release --no-default-features --features "${FEATURES:-}")
  BIN=${CARGO_TARGET_DIR:-$HERE/target}/release/peers
fi
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT
if [ $# -gt 0 ]; then ENGINES=$*; else ENGINES="null mem $("$BIN" list | awk '/^esker/{print $1}')"; fi
S="--n 20000 --ops 5000 --limit 5 --sync-secs 0.3 --rest-secs 0.1 --memory-mb 64 --dir $D"

READ=readrandom,readrandom@2,readhold,readzipf,readmissing,seek10,seekhold10,seek100,scan
MIX=ycsb-a,ycsb-a@2,ycsb-b,ycsb-b@2,ycsb-c,ycsb-d,ycsb-d@2,ycsb-e,ycsb-e@2,ycsb-f,ycsb-f@2,readwhilewriting,readwhilewriting@3,snapshothold,snapshothold@2
# mem forgets when it is closed, which fillsync and reopen do
MEM=fillseq,scan,fillbulk,scan,fillrandom,$READ,overwrite,rest,$READ,$MIX,scan,deleterandom,scandeleted
ALL=fillseq,scan,fillbulk,scan,fillrandom,$READ,overwrite,rest,$READ,$MIX,scan,reopen,reopencold
ALL=$ALL,fillsync@1,fillsync@8,readrandom,scan,deleterandom,scandeleted
# long rows, warm-up, preload, groups of writes, and a kill
LONG=overwrite,ycsb-a@2,fillrandom,deleterandom,scandeleted,crash
# in large values
VALUES=fillrandom,readrandom,readwhilewriting,snapshothold,scan
for E in $ENGINES; do
  LIST=$ALL; [ "$E" = mem ] && LIST=$MEM
  {
    "$BIN" run --engine "$E" --workload "$LIST" $S &&
    "$BIN" run --engine "$E" --workload "$LONG" $S --min-secs 0.3 --warm-secs 0.1 --group 7 --preload &&
    "$BIN" run --engine "$E" --workload "$LIST" $S --keys url &&
    "$BIN" run --engine "$E" --workload crash $S --keys url &&
    "$BIN" run --engine "$E" --workload "$VALUES" $S --n 300 --value 65536
  } > "$D/out" 2> "$D/err" || { cat "$D/err"; echo "smoke: $E FAILED" >&2; exit 1; }
  echo "smoke: $E $(wc -l < "$D/out") rows, no wrong answer"
done

pair() {
  "$BIN" pair --a mem --b null,rawsync --workload 'fillrandom,readrandom,scan,readwhilewriting;overwrite,snapshothold,fillsync' $S \
    --min-secs 0.1 --read-secs 0.1 --sync-secs 0.1 --out "$D/pair.jsonl" "$@" 2> "$D/err" || { cat "$D/err"; exit 1; }
}
pair > "$D/pair.md"
# what is in the file is not measured again, and gives the same tables
pair --resume > "$D/again.md"
[ "$(grep -c 'taken from the file' "$D/err")" = 20 ]
diff <(sed 's/ --resume//' "$D/again.md") "$D/pair.md"
grep -q '^| readwhilewriting T=2, gets |' "$D/pair.md"
grep -q '^| readwhilewriting T=2, writes |' "$D/pair.md"
grep -q '^| snapshothold | \*\*' "$D/pair.md"
"$BIN" table "$D/pair.jsonl" --base mem > "$D/table.md"
[ "$(grep -c '^| readwhilewriting, \(gets\|writes\) T=2 | [*0-9]' "$D/table.md")" = 2 ]
echo "smoke: pair prints, and resumes"
