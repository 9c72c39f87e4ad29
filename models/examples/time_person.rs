//! Seconds of one pass of each network that reads photographs: `time_person FOLDER`, where
//! `benches/baselines/onnx_person.py FOLDER` has written them and timed ONNX Runtime.
#![expect(clippy::print_stdout, reason = "an example speaks")]

use std::path::PathBuf;

use kraftr_models::parity::preparation;

const RUNS: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: time_person FOLDER")?;
    for (name, sides) in [("yolox_l.onnx", [640, 640]), ("dw-ll_ucoco_384.onnx", [384, 288])] {
        let report = preparation::time(&PathBuf::from(&folder).join(name), sides, RUNS)?;
        let preparation::PassReport { load_s, pass_s, checksum } = report;
        println!("{name}: load {load_s:.2} s, pass {pass_s:.3} s, checksum {checksum:.4}");
    }
    Ok(())
}
