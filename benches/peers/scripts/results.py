#!/usr/bin/env python3
"""results.py FILE.jsonl...   the tables of ../RESULTS.md, from what `peers pair --out` appended.

Each row of a claim is looked for in all files; its ratio is Esker divided by the peer that was fastest (by the median)
of those that the row allows and that ran beside it: median [least-most] over repetitions. A row that no file holds is left
out, so that what was not measured is seen to be missing in the list at the end."""
import collections, json, statistics, sys

ORDERED = "rocksdb lmdb mdbx redb fjall sqlite canopy sled".split()
HASHES = ["tkrzw-hash", "bdb-hash"]
B, H, F = "esker-btree", "esker-hash", "esker-fractal"
# size, name, workload, threads, kind, peers, bar, lower is better
ROWS = [
    ("small", "random get, 1 thread", "readrandom", 1, B, ["lmdb"], 1.3),
    ("small", "random get, 2 threads", "readrandom", 2, B, ["lmdb"], 1.3),
    ("small", "zipf get", "readzipf", 1, B, ["lmdb"], 1.3),
    ("small", "random get, 1 thread", "readrandom", 1, H, ["lmdb"], 2.0),
    ("small", "random get, 2 threads", "readrandom", 2, H, ["lmdb"], 2.0),
    ("small", "random get, 1 thread", "readrandom", 1, H, ["tkrzw-hash"], 1.3),
    ("small", "random get, 2 threads", "readrandom", 2, H, ["tkrzw-hash"], 1.3),
    ("small", "absent keys", "readmissing", 1, H, ["fjall"], 1.3),
    ("small", "absent keys", "readmissing", 1, F, ["fjall"], 1.3),
    ("small", "seek + 10", "seek10", 1, B, ["lmdb"], 1.3),
    ("small", "seek + 100", "seek100", 1, B, ["lmdb"], 1.3),
    ("small", "full scan", "scan", 1, B, ["lmdb"], 1.5),
    ("small", "full scan", "scan", 1, F, ["lmdb"], 1.5),
    ("small", "random put, single", "fillrandom", 1, B, ORDERED, 3.0),
    ("small", "overwrite, single", "overwrite", 1, B, ORDERED, 3.0),
    ("small", "random put, single", "fillrandom", 1, H, ["tkrzw-hash"], 1.3),
    ("small", "overwrite, single", "overwrite", 1, H, ["tkrzw-hash"], 1.3),
    ("small", "random put, single", "fillrandom", 1, F, ORDERED, 3.0),
    ("small", "overwrite, single", "overwrite", 1, F, ORDERED, 3.0),
    ("small", "sorted load, batches of 1000", "fillseq", 1, B, ORDERED, 1.0),
    ("small", "sorted load, batches of 1000", "fillseq", 1, F, ORDERED, 1.0),
    ("small", "sorted load, batches of 1000", "fillseq", 1, H, HASHES, 1.0),
    *[("small", f"YCSB {mix}, {t} thread{'s' * (t > 1)}", f"ycsb-{mix}", t, kind, peers, bar)
      for mix in "abcdf" for t in (1, 2) for kind, peers, bar in ((B, ORDERED, 1.5), (H, ["tkrzw-hash"], 1.2))],
    ("small", "YCSB e, 1 thread", "ycsb-e", 1, B, ["lmdb"], 1.2),
    ("small", "YCSB e, 2 threads", "ycsb-e", 2, B, ["lmdb"], 1.2),
    ("small", "random deletes", "deleterandom", 1, B, ORDERED, 1.3),
    ("small", "scan after them", "scandeleted", 1, B, ORDERED, 1.3),
    ("small", "durable puts, 1 writer", "fillsync", 1, B, ORDERED, 1.0),
    ("small", "durable puts, 1 writer", "fillsync", 1, B, ["rawsync"], 0.85),
    ("small", "durable puts, 8 writers", "fillsync", 8, B, ORDERED, 1.5),
    ("small", "durable puts, 32 writers", "fillsync", 32, B, ORDERED, 1.5),
    ("large", "random load", "fillrandom", 1, F, ["rocksdb"], 2.0),
    ("large", "random load", "fillrandom", 1, F, ["rocksdb-universal"], 1.2),
    ("large", "random load", "fillrandom", 1, F, ["fjall"], 2.0),
    ("large", "random updates, steady", "overwrite", 1, F, ["rocksdb"], 1.5),
    ("large", "random get, 1 thread", "readrandom", 1, F, ORDERED, 1.3),
    ("large", "random get, 8 threads", "readrandom", 8, F, ORDERED, 1.3),
    ("large", "random get, 1 thread", "readrandom", 1, B, ORDERED, 1.3),
    ("large", "random get, 8 threads", "readrandom", 8, B, ORDERED, 1.3),
    ("large", "zipf get", "readzipf", 1, F, ORDERED, 1.5),
    ("large", "seek + 100", "seek100", 1, F, ORDERED, 1.2),
    ("large", "full scan, fresh", "scan", 1, F, ORDERED, 1.5),
    ("large", "full scan, fresh", "scan", 1, B, ORDERED, 1.5),
]


def rate(x):
    return f"{x / 1e6:.2f} M" if x >= 1e6 else f"{x / 1e3:.0f} k" if x >= 1e4 else f"{x / 1e3:.1f} k"


def spread(ratios):
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}–{max(ratios):.2f}]" if len(ratios) > 1 else f"{ratios[0]:.2f} (one pair)"


runs = collections.defaultdict(dict)  # (file, size, workload, threads, group, engine) -> repetition -> line
for name in sys.argv[1:]:
    for text in open(name):
        line = json.loads(text)
        if "skipped" in line or line["engine"] in ("null", "mem"):
            continue
        # Claims are about values of 100 bytes and plain keys: other sets are only reported.
        if line.get("value", 100) != 100 or line.get("keys", "plain") != "plain":
            continue
        size = "large" if line.get("n", 0) >= 10_000_000 else "small"
        # The tag holds the group of the list: reads of a list whose writes were grouped stand apart.
        group = next((word for word in line["tag"].split() if word.startswith("group=")), "")
        runs[name, size, line["workload"], line["threads"], group, line["engine"]][line["rep"]] = line


def pairs(size, workload, threads, kind, peers):
    """The best peer, the ratios on both clocks, and lines of both sides."""
    best = None
    for (name, s, w, t, group, engine), theirs in runs.items():
        if (s, w, t) != (size, workload, threads) or engine not in peers:
            continue
        ours = runs.get((name, size, workload, threads, group, kind), {})
        both = sorted(set(ours) & set(theirs))
        if not both:
            continue
        median = statistics.median(theirs[r]["ops_per_s"] for r in both)
        if best is None or median > best[0]:
            best = (median, engine, [ours[r] for r in both], [theirs[r] for r in both])
    return best


missing = []
for size, title in (("small", "SMALL"), ("large", "LARGE")):
    print(f"### {title}\n\n| row | kind | bar | against | ratio | all idle | Esker | peer | writes ≥ s | |\n|---|---|---|---|---|---|---:|---:|---:|---|")
    for s, row, workload, threads, kind, peers, bar in ROWS:
        if s != size:
            continue
        found = pairs(s, workload, threads, kind, peers)
        if found is None:
            missing.append(f"{title} {row}, {kind.removeprefix('esker-')} against {'/'.join(peers) if len(peers) < 3 else 'ordered peers'}")
            continue
        _, peer, ours, theirs = found
        ratios = [a["ops_per_s"] / b["ops_per_s"] for a, b in zip(ours, theirs)]
        idle = [a["ops_per_s_idle"] / b["ops_per_s_idle"] for a, b in zip(ours, theirs)
                if a.get("user_write_bytes") and a.get("ops_per_s_idle") and b.get("ops_per_s_idle")]
        met = statistics.median(ratios) >= bar and (not idle or peer in ("lmdb", "mdbx", "tkrzw-hash", "rawsync") or statistics.median(idle) >= bar)
        least = next((word[4:] for word in ours[0]["tag"].split() if word.startswith("min=")), "")
        print(f"| {row} | {kind.removeprefix('esker-')} | {bar} | {peer} | {spread(ratios)} | {spread(idle) if idle else '–'} | "
              f"{rate(statistics.median(a['ops_per_s'] for a in ours))} | {rate(statistics.median(b['ops_per_s'] for b in theirs))} | "
              f"{least if ours[0].get('user_write_bytes') else '–'} | {'' if met else '**missed**'} |")
    print()
print("Not measured: " + "; ".join(missing) + ".")
