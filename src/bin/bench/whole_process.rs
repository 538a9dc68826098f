//! The work of the command-line program, from its start to its end.

use std::process::{Command, Stdio};

use diffuscope::{Error, Result};

use crate::operations::OperationCounts;
use crate::order::{ReadyWork, WorkOrder, WorkRun, timed};
use crate::runs::PROMPT;

/// One picture by `diffuscope generate`.
pub fn generate(order: &WorkOrder) -> Result<ReadyWork> {
    let (order, device) = (order.clone(), order.device()?);
    let run = move || {
        let mut command = Command::new(&order.program);
        command.args(["generate", PROMPT, "--model"]).arg(&order.folder);
        command.args(["--steps", &order.steps.to_string(), "--sampler", "ddim"]);
        command.args(["--dtype", &order.dtype, "--device", &order.device]);
        command.arg("--out").arg(order.scratch.join("picture.png"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (seconds, output) =
            timed(device, || command.output().map_err(|e| Error::io(&order.program, e)))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::argument("generate", "a program that ends well", said));
        }
        Ok(WorkRun { seconds, answer: None })
    };
    Ok(ReadyWork { run: Box::new(run), operations: OperationCounts::default() })
}
