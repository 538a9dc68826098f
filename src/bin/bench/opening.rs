//! The work of opening a model.

use diffuscope::Result;
use diffuscope::pipeline::StableDiffusion;

use crate::operations::OperationCounts;
use crate::order::{ReadyWork, WorkOrder, WorkRun, timed};

/// Opens a folder; the memory is given back outside the time.
pub fn load(order: &WorkOrder) -> Result<ReadyWork> {
    let (folder, kind, device) = (order.folder.clone(), order.kind()?, order.device()?);
    let run = move || {
        let (seconds, model) = timed(device, || StableDiffusion::open(&folder, kind, device))?;
        drop(model);
        Ok(WorkRun { seconds, answer: None })
    };
    Ok(ReadyWork { run: Box::new(run), operations: OperationCounts::default() })
}
