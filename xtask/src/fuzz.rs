//! Fuzzing of decoders: AFL++ through cargo-afl on the stable toolchain, one target at a time.
//!
//! The tool is installed and the runner built below target/; neither is part of the workspace. What a run finds beside
//! crashes, inputs that reach code no other input reaches, is what the normal tests replay: `--keep` puts a small set of
//! them that reaches most into fuzz/corpus/.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Failure, cargo, program, step};

/// The tool and the crate of fuzz/runner/Cargo.toml are one release.
const CARGO_AFL: &str = "0.18.2";
/// MiB of address space that a decoder may have, the program itself included.
const MEMORY_MAX_MIB: &str = "1024";
/// What a corpus may hold: the tests replay it each time, and it is part of the tree.
const CORPUS_INPUTS_MAX: usize = 130;
const CORPUS_BYTES_MAX: usize = 300_000;
/// Seconds of a run unless said otherwise.
const SECONDS: u32 = 60;

const USAGE: &str =
    "cargo xtask fuzz TARGET|all [SECONDS] [--keep]; the targets are the folders of fuzz/corpus/";

struct Arguments {
    targets: Vec<String>,
    seconds: u32,
    keeps: bool,
}

/// Fuzzes the targets that are named, and fails when an input breaks a rule.
pub fn run(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let arguments = Arguments::read(root, arguments)?;
    let tools = install(root)?;
    let built = root.join("target/fuzz");
    // The versions of the workspace; cargo adds what the runner needs beside them.
    let lock = root.join("fuzz/runner/Cargo.lock");
    fs::copy(root.join("Cargo.lock"), &lock).map_err(at(&lock))?;
    let afl = |verb: &str| {
        let mut command = program(root, &tools.join("bin/cargo-afl"));
        command.args(["afl", verb]);
        command
    };
    let build = ["--release", "--manifest-path", "fuzz/runner/Cargo.toml", "--target-dir", "target/fuzz"];
    step("build the runner with coverage", afl("build").args(build))?;
    let runner = built.join("release/fuzz-runner");
    let mut broken = Vec::new();
    for target in &arguments.targets {
        let out = built.join("out").join(target);
        remove(&out)?;
        fs::create_dir_all(&out).map_err(at(&out))?;
        let report = out.join("report.txt");
        let written = fs::File::create(&report).map_err(at(&report))?;
        println!("\n{target}: the fuzzer writes to {}", report.display());
        let corpus = root.join("fuzz/corpus").join(target);
        step(
            &format!("fuzz {target} for {} s", arguments.seconds),
            afl("fuzz")
                .arg("-i")
                .arg(&corpus)
                .arg("-o")
                .arg(&out)
                .args(["-V", &arguments.seconds.to_string(), "-m", MEMORY_MAX_MIB, "--"])
                .arg(&runner)
                .arg(target)
                // Neither the governor of the processor nor a core dump's handler is ours to change.
                .env("AFL_SKIP_CPUFREQ", "1")
                .env("AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES", "1")
                .env("AFL_NO_UI", "1")
                .stdout(written),
        )?;
        let found = out.join("default");
        let stats = fs::read_to_string(found.join("fuzzer_stats")).map_err(at(&found))?;
        println!("{target}: {}", summary(&stats));
        let crashes = files(&[found.join("crashes"), found.join("hangs")])?;
        if arguments.keeps && crashes.is_empty() {
            keep(&afl, &found.join("queue"), &corpus, &runner, target)?;
        }
        broken.extend(crashes);
    }
    if broken.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = broken.iter().map(|path| path.display().to_string()).collect();
    Err(Failure::new(format!("inputs break a rule or take too long:\n  {}", list.join("\n  "))))
}

impl Arguments {
    fn read(root: &Path, arguments: &[String]) -> Result<Self, Failure> {
        let corpus = root.join("fuzz/corpus");
        let mut known: Vec<String> = fs::read_dir(&corpus)
            .map_err(at(&corpus))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        known.sort();
        let keeps = arguments.iter().any(|argument| argument == "--keep");
        let mut rest = arguments.iter().filter(|argument| *argument != "--keep");
        let targets = match rest.next().map(String::as_str) {
            Some("all") => known,
            Some(name) if known.iter().any(|known| known == name) => vec![name.to_owned()],
            _ => return Err(Failure::new(format!("{USAGE}\n  {}", known.join(" ")))),
        };
        let seconds = rest.next().map_or(Ok(SECONDS), |text| text.parse());
        let seconds = seconds.map_err(|_| Failure::new(USAGE))?;
        if rest.next().is_some() {
            return Err(Failure::new(USAGE));
        }
        Ok(Self { targets, seconds, keeps })
    }
}

/// cargo-afl of our release, with the AFL++ that it brings, below target/.
fn install(root: &Path) -> Result<PathBuf, Failure> {
    let tools = root.join("target/fuzz-tools").join(CARGO_AFL);
    if !tools.join("bin/cargo-afl").exists() {
        println!("== missing on this machine:");
        println!("   cargo-afl {CARGO_AFL}, the fuzzer, from crates.io, into {}", tools.display());
        let install = ["install", "cargo-afl", "--version", CARGO_AFL, "--locked", "--quiet"];
        step("install cargo-afl", cargo(root).args(install).arg("--root").arg(&tools))?;
        let mut build = program(root, &tools.join("bin/cargo-afl"));
        step("build AFL++", build.args(["afl", "config", "--build", "--force"]))?;
    }
    Ok(tools)
}

/// Puts a small set of inputs in the place of the corpus, out of those that reach as much as all of `queue`.
fn keep(
    afl: &dyn Fn(&str) -> Command,
    queue: &Path,
    corpus: &Path,
    runner: &Path,
    target: &str,
) -> Result<(), Failure> {
    let [smallest, maps] = ["smallest", "maps"].map(|name| queue.with_file_name(name));
    for (verb, from, to) in [("cmin", queue, &smallest), ("showmap", &smallest, &maps)] {
        remove(to)?;
        let mut command = afl(verb);
        command.arg("-i").arg(from).arg("-o").arg(to).args(["-m", MEMORY_MAX_MIB, "--"]);
        let silent = std::process::Stdio::null();
        step(&format!("{verb} of {target}"), command.arg(runner).arg(target).stdout(silent))?;
    }
    let mut inputs = Vec::new();
    for path in files(&[smallest])? {
        let map = maps.join(path.file_name().unwrap_or_default());
        let reached = fs::read_to_string(&map).map_err(at(&map))?.lines().map(str::to_owned).collect();
        inputs.push(Input { bytes: fs::read(&path).map_err(at(&path))?, reached });
    }
    remove(corpus)?;
    fs::create_dir_all(corpus).map_err(at(corpus))?;
    // AFL++ names inputs after how they came to be, differently in each run.
    for input in choose(inputs) {
        let kept = corpus.join(format!("{:016x}", digest(&input.bytes)));
        fs::write(&kept, input.bytes).map_err(at(&kept))?;
    }
    Ok(())
}

/// An input, and the places it reaches, each with how often.
struct Input {
    bytes: Vec<u8>,
    reached: Vec<String>,
}

/// One after the other the input that reaches most that is new for its length, until nothing is new or the corpus is full.
fn choose(inputs: Vec<Input>) -> Vec<Input> {
    let mut numbers = BTreeMap::new();
    let mut left: Vec<(Input, Vec<usize>)> = inputs
        .into_iter()
        .map(|input| {
            let places = input.reached.iter().map(|place| {
                let next = numbers.len();
                *numbers.entry(place.clone()).or_insert(next)
            });
            let places = places.collect();
            (input, places)
        })
        .collect();
    let mut seen = vec![false; numbers.len()];
    let (mut chosen, mut room) = (Vec::new(), CORPUS_BYTES_MAX);
    while chosen.len() < CORPUS_INPUTS_MAX {
        left.retain(|(input, _)| input.bytes.len() <= room);
        let gain = |places: &[usize]| places.iter().filter(|place| !seen[**place]).count();
        let worth =
            |(input, places): &(Input, Vec<usize>)| gain(places) as f64 / (input.bytes.len() + 200) as f64;
        let best = (0..left.len()).max_by(|a, b| worth(&left[*a]).total_cmp(&worth(&left[*b])));
        let Some(best) = best.filter(|best| gain(&left[*best].1) > 0) else { break };
        let (input, places) = left.swap_remove(best);
        places.into_iter().for_each(|place| seen[place] = true);
        room -= input.bytes.len();
        chosen.push(input);
    }
    chosen
}

/// FNV-1a: a name by content.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What matters of AFL++'s `fuzzer_stats`.
fn summary(stats: &str) -> String {
    let value = |name: &str| {
        let line = stats.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name));
        line.map_or("?", |(_, value)| value.trim())
    };
    format!(
        "{} executions, {} inputs, coverage {}, {} crashes, {} hangs",
        value("execs_done"),
        value("corpus_count"),
        value("bitmap_cvg"),
        value("saved_crashes"),
        value("saved_hangs")
    )
}

/// The inputs in folders that may be absent, in the order of their names.
fn files(folders: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(folder).map_err(at(folder))? {
            let path = entry.map_err(at(folder))?.path();
            // Beside inputs lie a README and the state of the fuzzer.
            if path.is_file() && path.file_name().is_some_and(|name| name != "README.txt") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    Ok(paths)
}

fn remove(folder: &Path) -> Result<(), Failure> {
    if folder.exists() { fs::remove_dir_all(folder).map_err(at(folder)) } else { Ok(()) }
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> Failure + use<> {
    let path = path.display().to_string();
    move |error| Failure::new(format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_the_fuzzer_counted() {
        let stats = "execs_done        : 4711\ncorpus_count      : 12\nsaved_crashes     : 1\nsaved_hangs       : 0\nbitmap_cvg        : 3.10%\n";
        assert_eq!(summary(stats), "4711 executions, 12 inputs, coverage 3.10%, 1 crashes, 0 hangs");
    }

    #[test]
    fn a_corpus_is_chosen_by_what_is_new_for_its_length_and_ends_when_nothing_is() {
        let input = |length: usize, reached: &[&str]| Input {
            bytes: vec![0; length],
            reached: reached.iter().map(|place| (*place).to_owned()).collect(),
        };
        let chosen = choose(vec![
            input(90, &["1:1"]),
            input(10, &["1:1", "2:1", "3:1"]),
            input(20, &["3:1", "4:1"]),
            input(CORPUS_BYTES_MAX + 1, &["5:1"]),
        ]);
        assert_eq!(chosen.iter().map(|input| input.bytes.len()).collect::<Vec<_>>(), [10, 20]);
    }

    #[test]
    fn a_target_must_have_a_corpus() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let read = |words: &[&str]| {
            Arguments::read(root, &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        assert!(read(&[]).is_err());
        assert!(read(&["nothing"]).is_err());
        assert!(read(&["texts", "soon"]).is_err());
        let some = read(&["texts", "5", "--keep"]).unwrap();
        assert_eq!((some.targets.len(), some.seconds, some.keeps), (1, 5, true));
        assert!(read(&["all"]).unwrap().targets.len() > 10);
    }
}
