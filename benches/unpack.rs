//! Decompresses standard input to nowhere, for measurements: `unpack NAME WORKERS <FILE`, where the suffix of NAME says
//! the format. Prints bytes and seconds.

use std::io::{Read, Write};
use std::time::Instant;

use mantle::compress::{Compression, Decoder};

/// Counts what it is given.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0 += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(workers)) = (args.next(), args.next()) else {
        return Err("usage: unpack NAME WORKERS <FILE".into());
    };
    let (compression, _) = Compression::of_name(&name).ok_or("the name has no known suffix")?;
    let started = Instant::now();
    let mut decoder = Decoder::with_workers(Some(compression), Count(0), workers.parse()?)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match std::io::stdin().lock().read(&mut buffer)? {
            0 => break,
            n => decoder.write_all(&buffer[..n])?,
        }
    }
    let Count(bytes) = decoder.finish()?;
    writeln!(std::io::stdout(), "{bytes} {:.3}", started.elapsed().as_secs_f64())?;
    Ok(())
}
