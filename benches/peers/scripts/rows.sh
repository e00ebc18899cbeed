#!/bin/bash
# rows.sh SET OUTDIR [A [PEER,...]]   the rows that claims are made from, A against each peer.
# Every set is one `peers pair`: its lines are appended to OUTDIR/SET.jsonl, its tables are written to
# OUTDIR/SET.md. Run again, it goes on where it stopped. A set takes hours with many peers: a repetition
# of small-mixes lasts ten minutes for each.
# PEERS=path picks the binary, DATA=path the disk, REPS=n the repetitions; QUICK=1 is a rehearsal of
# every set in a minute or two, good for nothing else.
set -euo pipefail
SETS="small-load small-mixes small-deletes small-durable small-open small-disk large-load large-reads large-updates"
SETS="$SETS small-reports small-values-8 small-values-1024 small-values-65536 small-urls"
if [ $# -lt 2 ]; then sed -n '2,7s/^# //p' "$0"; echo "SET is one of: $SETS"; exit 2; fi
HERE=$(cd "$(dirname "$0")/.." && pwd)
SET=$1; OUT=$2; A=${3:-esker-btree}
WANTED=${4:-lmdb,rocksdb,fjall,canopy,sqlite,redb,mdbx,sled}
BIN=${PEERS:-${CARGO_TARGET_DIR:-$HERE/target}/release/peers}
mkdir -p "$OUT"

# those of the wanted peers that are in the binary
B=; HAS=$("$BIN" list | awk '{print $1}')
for P in ${WANTED//,/ }; do
  if grep -qx "$P" <<< "$HAS"; then B=$B${B:+,}$P; else echo "$P is not in the binary" >&2; fi
done

pair() { # workloads, then settings
  local W=$1; shift
  [ -z "${QUICK:-}" ] || set -- "$@" --n "${QUICK_N:-20000}" --ops 5000 --min-secs 0.5 --read-secs 0.2 --warm-secs 0 --rest-secs 1 --sync-secs 0.5
  ${CAPPED:-} "$BIN" pair --a "$A" --b "$B" --workload "$W" --reps "${REPS:-3}" --dir "${DATA:-$HOME/peers-data}" \
    "$@" --out "$OUT/$SET.jsonl" --resume > "$OUT/$SET.md"
}
# 2 M records; 704 MiB = a cache of 512 and three write buffers of 64
small() { pair "$1" --n 2000000 --memory-mb 704 "${@:2}"; }
# 30 M records under a cap of 1 GiB; 448 MiB = a cache of 256 and the same write buffers
large() { CAPPED="$HERE/scripts/capped.sh 1024" pair "$1" --n 30000000 --memory-mb 448 --big "${@:2}"; }

# readhold@2 comes first of the reads: it warms the caches
READS=readhold@2:2000000,readrandom,readrandom@2,readzipf,readmissing,seek10,seek100,scan
MIXES=ycsb-a,ycsb-a@2,ycsb-b,ycsb-b@2,ycsb-c,ycsb-c@2,ycsb-d,ycsb-d@2,ycsb-f,ycsb-f@2
# of values large or small: no warm-up by number of gets, which may be too many
SHORT="fillrandom,overwrite,readhold@2,readrandom,readrandom@2,readzipf,readmissing,seek10,seek100,scan;ycsb-a"
case $SET in
  small-load) small "fillseq;fillrandom,overwrite,$READS" ;;
  small-mixes) small "$MIXES;ycsb-e,ycsb-e@2" ;;
  small-deletes) small 'deleterandom,scandeleted' ;;
  small-durable) B=$B,rawsync; small 'fillsync@1,fillsync@8,fillsync@32' ;;
  small-open) small 'reopen,reopencold;crash' --min-secs 0 ;;
  small-disk) small 'fillbulk,rest;fillrandom,rest' --min-secs 0 ;;
  # reported, without a bar
  small-reports) small 'readwhilewriting;snapshothold' ;;
  # as many bytes as ever, but for the smallest
  small-values-8) small "$SHORT" --value 8 ;;
  small-values-1024) small "$SHORT" --value 1024 --n 220000 ;;
  small-values-65536) QUICK_N=500; small "$SHORT" --value 65536 --n 3500 ;;
  small-urls) small "$SHORT" --keys url ;;
  large-load) large 'fillbulk,scan;fillrandom' --fill-limit 1800 ;;
  large-reads) large 'readrandom,readrandom@8,readzipf,readmissing,seek10,seek100,scan' --ops 1 --read-secs 60 --warm-secs 30 ;;
  large-updates) large 'overwrite,scan,rest' --warm-secs 120 --min-secs 300 --limit 300 ;;
  *) echo "$SET is none of: $SETS" >&2; exit 2 ;;
esac
