use super::*;
use esker_io::mem::MemDisk;

fn row(n: u64) -> (u64, [u8; 8], Vec<u8>) {
    let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let bytes = if random.is_multiple_of(50) { 40_000 } else { random / 50 % 300 };
    let value = vec![n.to_le_bytes()[0]; usize::try_from(bytes).expect("few")];
    (random / 15_000 % 1000, n.to_le_bytes(), value)
}

/// So many rows, in parts of 100 KB.
fn sorter(rows: u64) -> Sorter {
    let mut sorter = Sorter::new(Arc::new(MemDisk::new()), 100_000);
    for n in 0..rows {
        let (rank, key, value) = row(n);
        sorter.push(rank, &key, &value);
        if sorter.is_full() {
            sorter.write_part().unwrap();
        }
    }
    sorter
}

fn drained(sorter: &mut Sorter) -> Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    sorter.drain(|key, value| {
        let n = u64::from_le_bytes(key.try_into().expect("eight bytes"));
        let (rank, _, wanted) = row(n);
        assert_eq!(value, wanted, "row {n}");
        found.push((rank, n));
        Ok(())
    })?;
    Ok(found)
}

#[test]
fn rows_come_back_in_order_and_what_never_left_memory_as_it_came() {
    for rows in [0, 1, 20, 500, 3000] {
        let mut sorter = sorter(rows);
        let is_written = sorter.file.is_some();
        assert_eq!(is_written, rows >= 500, "{rows} rows");
        let mut wanted: Vec<_> = (0..rows).map(|n| (row(n).0, n)).collect();
        if is_written {
            wanted.sort_unstable_by_key(|(rank, n)| (order_of(*rank), *n));
        }
        assert_eq!(drained(&mut sorter).unwrap(), wanted);
        assert!(drained(&mut sorter).unwrap().is_empty(), "it is empty then");
    }
}

#[test]
fn no_other_name_is_taken_for_that_of_a_sort_file() {
    assert!([0, 7, u64::MAX].iter().all(|seed| is_sort_name(&sort_name(*seed))));
    let others = ["sort-", "sort-7", "sort-algorithms.txt", "sort-+000000000000007", "a", ""];
    assert!(!others.iter().any(|name| is_sort_name(name)));
    assert!(
        !is_sort_name(&sort_name(0xabc).to_uppercase()) && !is_sort_name(&(sort_name(1) + "0"))
    );
}

#[test]
fn a_file_that_was_damaged_is_told() {
    for at in [0, 3, 5, 20_000, 100_000, 150_000] {
        let mut sorter = sorter(600);
        let file = sorter.file.as_ref().expect("more than a part");
        assert!(at < file.end());
        let mut byte = [0];
        file.file.read_at(at, &mut byte).unwrap();
        file.file.write_at(at, &[byte[0] ^ 16]).unwrap();
        let found = drained(&mut sorter);
        assert!(matches!(found, Err(Error::Corrupt { .. })), "byte {at}: {found:?}");
    }
    // Pieces that have changed places.
    let mut sorter = sorter(600);
    let file = sorter.file.as_ref().expect("more than a part");
    let mut piece = vec![0; PIECE_BYTES + CHECKSUM_BYTES];
    file.file.read_at(piece.len() as u64, &mut piece).unwrap();
    file.file.write_at(0, &piece).unwrap();
    assert!(matches!(drained(&mut sorter), Err(Error::Corrupt { .. })));
}
