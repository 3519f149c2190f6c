//! Volumes of an export, handed in through a browser: the daemon may reach no medium, but whoever sits before it can.
//!
//! The script of the page sends each file by itself, as it is, in a POST: so there is a bar and an answer for each, what breaks
//! off costs one file, and a program can do the same. Without a script the page is a form, whose one body ([`super::form`])
//! brings the manifest and then the files. Either way nothing is held but what [`crate::import`] keeps, which is bounded by the
//! export's layout and by the disk's reserve, and one upload is taken at a time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::extract::{self, Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use bytes::Bytes;
use diodesync::audit::Event;
use diodesync::id::ExportId;
use diodesync::volume::FILE_BYTES_MAX;
use diodesync_control::ApiError;
use diodesync_control::dashboard::page::Page;
use diodesync_control::dashboard::{Board, uploads};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::api::{Shared, by};
use super::form::{FormReader, Piece};
use super::import::{are_you_sure, outcome};
use crate::api::Daemon;
use crate::import::{Offered, Summary, Taken, Taking, UnderWay, VolumeLack, check_manifest_size, discarded};

/// Time in which something must come of what is uploaded: it keeps other media waiting.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Files of one form.
const FILES_MAX: usize = 4096;
/// Octets of a form that belong to none of them.
const OTHER_BYTES_MAX: u64 = 1 << 20;

/// The handlers.
pub fn routes() -> Router<Arc<Board<Daemon>>> {
    let uploads = || middleware::from_fn(uploads);
    Router::new()
        .route("/api/v1/imports", get(imports).post(begin))
        .route("/api/v1/imports/{export}/resume", post(resume))
        .route("/api/v1/imports/{export}/slots", post(slots).layer(uploads()))
        .route("/api/v1/imports/{export}/finish", post(finish))
        .route("/api/v1/imports/{export}/discard", post(discard))
        .route("/hand-in", post(form).layer(uploads()))
        .route("/discard-import", post(discard_form))
        .route("/assets/import.js", get(script))
}

async fn script() -> impl IntoResponse {
    let kind =
        [(header::CONTENT_TYPE, "text/javascript; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (kind, include_str!("import.js"))
}

async fn imports(State(board): Shared) -> Result<Json<UnderWay>, ApiError> {
    Ok(Json(board.work(|board| Ok(board.source.imports.under_way(false))).await?))
}

/// Leave to hand something in.
fn leave(board: &Board<Daemon>) -> anyhow::Result<OwnedSemaphorePermit> {
    board.upload().context("another browser is handing in volumes at this moment; wait until it is done")
}

/// Does what may have to wait for a medium that is being read.
async fn alone<T: Send + 'static>(
    board: &Arc<Board<Daemon>>,
    work: impl FnOnce(&Daemon) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let daemon = board.source.clone();
    tokio::task::spawn_blocking(move || work(&daemon)).await.context("the import crashed")?
}

fn begun(daemon: &Daemon, manifest: &[u8]) -> anyhow::Result<Offered> {
    check_manifest_size(manifest)?;
    let offered = daemon.imports.begin(manifest)?;
    daemon.audit.tell(&by(), Event::Import { export: offered.export.to_string() })?;
    Ok(offered)
}

async fn begin(State(board): Shared, manifest: Bytes) -> Result<Json<Offered>, ApiError> {
    let _leave = leave(&board).map_err(ApiError::busy)?;
    Ok(Json(alone(&board, move |daemon| begun(daemon, &manifest)).await?))
}

async fn resume(State(board): Shared, Path(export): Path<ExportId>) -> Result<Json<Offered>, ApiError> {
    let _leave = leave(&board).map_err(ApiError::busy)?;
    let resumed = alone(&board, move |daemon| {
        let offered = daemon.imports.resume(export)?;
        daemon.audit.tell(&by(), Event::Import { export: export.to_string() })?;
        Ok(offered)
    });
    Ok(Json(resumed.await?))
}

#[derive(Debug, Deserialize)]
struct First {
    first: u32,
}

async fn slots(
    State(board): Shared,
    Path(export): Path<ExportId>,
    Query(First { first }): Query<First>,
    mut body: Body,
) -> Result<Json<Taken>, ApiError> {
    let taken = match leave(&board) {
        Ok(_leave) => {
            let mut taking = Taking::start(&board.source, export, first);
            let broke_off = feed(&mut taking, &mut body).await;
            let taken = taking.end().await.map_err(ApiError::from);
            taken.and_then(|taken| broke_off.map_or(Ok(()), |why| Err(cut(&taken, &why))).map(|()| taken))
        }
        Err(error) => Err(ApiError::busy(error)),
    };
    drain(&mut body).await;
    taken.map(Json)
}

/// Feeds what comes to its end; why that was not the file's.
async fn feed(taking: &mut Taking, body: &mut Body) -> Option<String> {
    let mut left = FILE_BYTES_MAX;
    loop {
        let frame = match timeout(STALL_MAX, body.frame()).await {
            Ok(None) => return None,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Some(format!("it broke off: {error}")),
            Err(_) => return Some(format!("nothing came for {} s", STALL_MAX.as_secs())),
        };
        let Ok(data) = frame.into_data() else { continue };
        match left.checked_sub(data.len() as u64) {
            Some(rest) => left = rest,
            None => {
                return Some(format!(
                    "it has more than the {FILE_BYTES_MAX} octets that a file of a volume has"
                ));
            }
        }
        if !taking.feed(data).await {
            // Its end says why.
            return None;
        }
    }
}

/// A file of which not everything came.
fn cut(taken: &Taken, why: &str) -> ApiError {
    let Taken { slots, new, .. } = taken;
    ApiError::refused(format!(
        "{why}. {slots} of its pieces came, {new} of them were new and are kept; send it again"
    ))
}

/// What became of an import, as far as it is.
#[derive(Debug, Serialize)]
pub struct Finished {
    /// The export.
    pub export: ExportId,
    /// Slots of data that parity repaired.
    pub repaired: u32,
    /// Those that are not here.
    pub missing_slots: u32,
    /// Where they lie.
    pub missing: Vec<VolumeLack>,
    /// What was not kept, and why.
    pub dropped: Vec<String>,
    /// Whether all of it came before.
    pub was_whole: bool,
}

fn finished(daemon: &Daemon, export: ExportId) -> anyhow::Result<Finished> {
    let Summary { repaired, missing_slots, missing, dropped, was_whole } = daemon.imports.finish(export)?;
    let told = Event::Imported { export: export.to_string(), missing: missing_slots, repaired };
    daemon.audit.note(&by(), told);
    let missing = missing.into_iter().map(|(volume, slots)| VolumeLack { volume, slots }).collect();
    Ok(Finished { export, repaired, missing_slots, missing, dropped, was_whole })
}

async fn finish(State(board): Shared, Path(export): Path<ExportId>) -> Result<Json<Finished>, ApiError> {
    let _leave = leave(&board).map_err(ApiError::busy)?;
    Ok(Json(alone(&board, move |daemon| finished(daemon, export)).await?))
}

/// What was thrown away.
#[derive(Debug, Serialize)]
struct Discarded {
    export: ExportId,
}

async fn discard(State(board): Shared, Path(export): Path<ExportId>) -> Result<Json<Discarded>, ApiError> {
    let _leave = leave(&board).map_err(ApiError::busy)?;
    alone(&board, move |daemon| discarded(daemon, &by(), export)).await?;
    Ok(Json(Discarded { export }))
}

#[derive(Debug, Deserialize)]
struct DiscardForm {
    export: ExportId,
    /// Without this it is asked again: the button stands on a page that changes by itself.
    #[serde(default)]
    sure: bool,
}

async fn discard_form(
    State(board): Shared,
    extract::Form(DiscardForm { export, sure }): extract::Form<DiscardForm>,
) -> Response {
    if !sure {
        return board.answer_page("Import", Ok(Page::new("Import").fixed("sure", are_you_sure(export))));
    }
    let done = match leave(&board) {
        Ok(_leave) => alone(&board, move |daemon| discarded(daemon, &by(), export)).await,
        Err(busy) => Err(busy),
    };
    let said = |()| {
        format!("What had come of export {export} is thrown away. Whole blocks of it stay with the releases.")
    };
    board.answer("Import", done.map(said))
}

/// A form with what it is read from.
struct Form {
    body: Body,
    reader: FormReader,
    /// Octets that belong to no file.
    others: u64,
}

impl Form {
    /// The next piece; none at the form's end.
    async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.reader.next_piece()? {
                return Ok(Some(piece));
            }
            if self.reader.is_done() {
                return Ok(None);
            }
            match timeout(STALL_MAX, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(octets) = frame.into_data() {
                        if self.reader.is_before_fields() {
                            self.pass(octets.len())?;
                        }
                        self.reader.push(&octets);
                    }
                }
                Ok(_) => bail!("the form was cut off; what came before is kept"),
                Err(_) => bail!("nothing came for {} s; what came before is kept", STALL_MAX.as_secs()),
            }
        }
    }

    /// Counts what belongs to no file.
    fn pass(&mut self, octets: usize) -> anyhow::Result<()> {
        self.others = self.others.saturating_add(octets as u64);
        if self.others > OTHER_BYTES_MAX {
            bail!("more than {OTHER_BYTES_MAX} octets of the form belong to no file of a volume");
        }
        Ok(())
    }

    /// The next octets of the field that was begun; none at its end.
    async fn octets(&mut self) -> anyhow::Result<Option<Bytes>> {
        match self.next().await? {
            Some(Piece::Octets(octets)) => Ok(Some(octets)),
            _ => Ok(None),
        }
    }
}

/// The form, for browsers that run no script.
async fn form(State(board): Shared, headers: HeaderMap, body: Body) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let done = match FormReader::new(kind) {
        Ok(reader) => {
            let mut form = Form { body, reader, others: 0 };
            let done = take_form(&board, &mut form).await;
            drain(&mut form.body).await;
            done
        }
        Err(error) => Err(error.into()),
    };
    board.answer_page("Import", done.map(|done| Page::new("Import").fixed("outcome", outcome(&done))))
}

/// What a form brought.
#[derive(Debug)]
pub struct FormDone {
    /// Its files of slots, by name.
    pub files: Vec<(String, Taken)>,
    /// And how far the import is.
    pub finished: Finished,
}

async fn take_form(board: &Arc<Board<Daemon>>, form: &mut Form) -> anyhow::Result<FormDone> {
    let _leave = leave(board)?;
    let (mut export, mut files) = (None, Vec::new());
    while let Some(piece) = form.next().await? {
        // What nobody asked for is passed over, up to a limit; each field counts as one octet at least.
        form.pass(if let Piece::Octets(octets) = &piece { octets.len() } else { 1 })?;
        let Piece::Begin { name, file: Some(file) } = piece else { continue };
        match name.as_str() {
            "manifest" if !file.is_empty() => {
                let manifest = manifest_of(form).await?;
                export = Some(alone(board, move |daemon| begun(daemon, &manifest)).await?.export);
            }
            "slots" => {
                let Some(first) = first_slot(&file) else { continue };
                let export = export.context("expected the volume's manifest before its files of slots")?;
                if files.len() >= FILES_MAX {
                    bail!("expected at most {FILES_MAX} files at once; hand in the others afterwards");
                }
                files.push((file, take_field(board, export, first, form).await?));
            }
            _ => {}
        }
    }
    let export = export.context("expected a volume's manifest, and no file of this name came")?;
    let finished = alone(board, move |daemon| finished(daemon, export)).await?;
    Ok(FormDone { files, finished })
}

async fn manifest_of(form: &mut Form) -> anyhow::Result<Vec<u8>> {
    let mut manifest = Vec::new();
    while let Some(octets) = form.octets().await? {
        manifest.extend_from_slice(&octets);
        check_manifest_size(&manifest)?;
    }
    Ok(manifest)
}

async fn take_field(
    board: &Arc<Board<Daemon>>,
    export: ExportId,
    first: u32,
    form: &mut Form,
) -> anyhow::Result<Taken> {
    let mut taking = Taking::start(&board.source, export, first);
    let broke_off = loop {
        match form.octets().await {
            Ok(Some(octets)) => {
                if !taking.feed(octets).await {
                    break None;
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let taken = taking.end().await?;
    broke_off.map_or(Ok(taken), Err)
}

/// Reads what is still being sent: who writes must be read from, or never reads why. More than a file has is not waited for.
async fn drain(body: &mut Body) {
    let mut left = FILE_BYTES_MAX;
    while left > 0
        && let Ok(Some(Ok(frame))) = timeout(STALL_MAX, body.frame()).await
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
    }
}

/// The first slot of a file by its name, which may have folders before it; none if it is no file of slots.
fn first_slot(name: &str) -> Option<u32> {
    let name = name.rsplit(['/', '\\']).next()?.strip_suffix(".slots")?;
    name.parse().ok().filter(|_| name.bytes().all(|octet| octet.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_slots_is_known_by_its_name_alone() {
        assert_eq!(first_slot("00000000.slots"), Some(0));
        assert_eq!(first_slot("diodesync-0011223344556677-001/00016384.slots"), Some(16384));
        assert_eq!(first_slot("C:\\fakepath\\00000007.slots"), Some(7));
        for bad in [
            "",
            ".slots",
            "manifest",
            "+7.slots",
            "-1.slots",
            "7.slots.exe",
            "99999999999.slots",
            "x/7.slots/",
        ] {
            assert_eq!(first_slot(bad), None, "{bad}");
        }
    }
}
