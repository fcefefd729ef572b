//! Sizes with units, as sectors of a disk.

/// Bytes of a sector as Ignition 2 counts them.
const SECTOR: f64 = 512.0;

/// The sectors that a size needs: a number with a unit (`512B`, `256MiB`, `256MB` being the same), or a sum of such
/// (`1GiB512MiB`). All units are powers of 1024. Empty text, and `0` without a unit, are none.
///
/// # Errors
/// What is wrong with it.
pub(super) fn sectors(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(format!("{text:?} is negative"));
    }
    if text.is_empty() || text == "0" {
        return Ok(0);
    }
    let mut rest = text;
    let mut bytes = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| format!("{text:?} is no size, such as 256MiB"))?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        bytes += number
            * unit_of(unit).ok_or_else(|| match unit {
                "" => format!("{text:?} has no unit; they are B, KiB, MiB, GiB, TiB, PiB and EiB"),
                unit => format!("unknown unit {unit:?}; they are B, KiB, MiB, GiB, TiB, PiB and EiB"),
            })?;
        rest = tail;
    }
    // What a 64-bit number of bytes holds: an exact bound for a float, too.
    if bytes >= 2_f64.powi(63) {
        return Err(format!("{text:?} is larger than any disk"));
    }
    // Not negative, and below 2^54.
    Ok((bytes / SECTOR).ceil() as u64)
}

fn unit_of(unit: &str) -> Option<f64> {
    if unit == "B" {
        return Some(1.0);
    }
    let prefix = unit.strip_suffix("iB").or_else(|| unit.strip_suffix('B'))?;
    let power = ["K", "M", "G", "T", "P", "E"].iter().position(|p| *p == prefix)?;
    Some(1024_f64.powi(i32::try_from(power).ok()? + 1))
}

#[cfg(test)]
mod tests {
    use super::sectors;

    #[test]
    fn sizes_become_sectors() {
        let table = [
            ("", 0),
            ("0", 0),
            ("0B", 0),
            ("1B", 1),
            ("512B", 1),
            ("513B", 2),
            ("1KB", 2),
            ("1KiB", 2),
            ("256MiB", 524_288),
            ("256MB", 524_288),
            ("1.5GiB", 3_145_728),
            ("1GiB512MiB", 3_145_728),
            ("0.1KiB", 1),
            ("1TiB", 1 << 31),
            ("2PB", 1 << 42),
            ("7EiB", 7 << 51),
        ];
        for (text, wanted) in table {
            assert_eq!(sectors(text), Ok(wanted), "{text:?}");
        }
        for bad in [
            "1",
            "-1MiB",
            "1M",
            "MiB",
            "1.2.3MiB",
            "1 MiB",
            "8EiB",
            "1mib",
            "99999999999999999999EiB",
            "1MiB2",
        ] {
            assert!(sectors(bad).is_err(), "{bad:?}");
        }
    }
}
