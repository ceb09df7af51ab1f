//! `lota init`: writes the pipeline file that stands for what is detected, for people to go on from.
use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use bot_clients::{Detected, detect};
use bot_messages::pipeline::FILE_NAME;

use crate::exit::Exit;

/// Where nothing is recognised, this is still something to begin with. It reads as a pipeline file.
const BLANK: &str = "\
# A first pipeline file: nothing was recognised here, so these commands are yours to write.
version: 1
build:
  steps:
    - name: compile
      run: ./build.sh
  artifacts: [dist/**]
test:
  suites:
    unit:
      run: ./test.sh
      reports: [junit.xml]
";

#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// The project
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
    /// Show the file and write nothing
    #[arg(long)]
    print: bool,
}

pub(crate) fn init(args: &InitArgs) -> anyhow::Result<ExitCode> {
    if !args.dir.is_dir() {
        eprintln!("lota: {} is no folder: expected a project", args.dir.display());
        return Ok(ExitCode::from(Exit::Usage.code()));
    }
    let detected = detect(&args.dir);
    let text = detected.as_ref().map_or_else(|| BLANK.to_owned(), Detected::file);
    let why = detected.as_ref().map(Detected::why);
    if args.print {
        print!("{text}");
        if let Some(why) = why {
            eprintln!("lota: {why}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let path = args.dir.join(FILE_NAME);
    // A link that leads nowhere is there too.
    let is_there = path.symlink_metadata().is_ok();
    if is_there && !args.force {
        eprintln!(
            "lota: {} is there already and stays as it is: `lota init --print` shows what would be written, --force writes it",
            path.display()
        );
        return Ok(ExitCode::from(Exit::Data.code()));
    }
    if is_there {
        fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    File::create_new(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!(
        "{} is written: {}",
        path.display(),
        why.as_deref().unwrap_or("nothing was recognised, so it is a sketch")
    );
    println!("next:");
    println!("  lota run    # builds and tests it on this machine, without a fleet");
    println!("  lota push   # once it is committed: the same through a fleet (`lota up` starts one)");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use bot_messages::pipeline::Pipeline;

    use super::*;

    #[test]
    fn the_sketch_is_a_pipeline_file() {
        assert_eq!(Pipeline::parse(BLANK).unwrap().build.steps.len(), 1);
    }
}
