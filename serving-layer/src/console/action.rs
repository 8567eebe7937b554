//! Doing something: `batch-layer` as a process of its own, for whoever brings a token that may administer.
//!
//! The serving layer never writes. It starts the program with arguments that are fixed but for a view, a version or an id, each one word that no
//! shell reads; shows the very line, so that a person can run it elsewhere; and shows what the program says, with its exit code. One goes at a
//! time, for so long and with so much said at most. Whether it was right to begin is for the program to decide: leases, audits and
//! put-if-absent hold for it as for any other.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path as PathOf, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use merganser_proto::audit::{Act, Audit};
use merganser_proto::auth::{Identity, Scope};
use merganser_proto::server::Peer;
use storage::machine::{Machine, now_us};
use storage::paths::ViewName;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::command::CommandLine;
use super::shell::{self, Again, Page, Tab};
use super::{Console, ConsoleOptions, words};

/// A program that goes on for longer is ended.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Bytes of what it says that are kept, of each kind; what comes after is not shown.
const MAX_SAID_BYTES: usize = 64 << 10;
/// Actions that are remembered.
const KEPT: usize = 16;

/// What somebody wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// An older version's content, published again.
    Rollback { view: ViewName, version: i64 },
    /// One user, counted again from the raw events.
    Recount { user_id: String },
}

impl Request {
    fn act(&self) -> Act {
        match self {
            Self::Rollback { view, version } => Act::new("rollback").with("view", view.as_str()).with("version", *version),
            Self::Recount { user_id } => Act::new("recount").with("user_id", user_id.as_str()),
        }
    }
}

/// What was done, and what is being done.
pub(super) struct Actions {
    /// Absent where there is none to be started.
    program: Option<PathBuf>,
    shared: Vec<String>,
    environment: Vec<(String, String)>,
    speed_layer: String,
    turn: Arc<Semaphore>,
    known: Mutex<Vec<Arc<Action>>>,
    machine: Arc<dyn Machine>,
    shutdown: CancellationToken,
}

/// One of them.
struct Action {
    id: String,
    request: Request,
    by: String,
    line: CommandLine,
    began_us: i64,
    outcome: Mutex<Option<Outcome>>,
}

/// What became of it.
#[derive(Clone, Debug)]
struct Outcome {
    /// Absent if it did not end by itself.
    exit_code: Option<i32>,
    said: String,
    complained: String,
    ended_us: i64,
}

impl Actions {
    pub(super) fn of(options: &ConsoleOptions, machine: Arc<dyn Machine>, shutdown: CancellationToken) -> Self {
        let config = options.config.settings_file.iter().flat_map(|file| ["--config".to_owned(), file.display().to_string()]);
        // Flags of this process say something else than the file that both read.
        let environment = vec![("MERGANSER_STORE__URL".to_owned(), options.store_url.clone())];
        Self {
            program: program(&options.config.batch_layer),
            shared: config.collect(),
            environment,
            speed_layer: options.speed_layer.clone(),
            turn: Arc::new(Semaphore::new(1)),
            known: Mutex::default(),
            machine,
            shutdown,
        }
    }

    /// The line that does it; with the name of the program alone where it is not said which.
    fn line(&self, request: &Request) -> CommandLine {
        let program = self.program.as_deref().unwrap_or(Path::new("batch-layer"));
        let view = if let Request::Rollback { view, .. } = request { view.clone() } else { ViewName::user_stats() };
        let mut arguments = self.shared.clone();
        arguments.extend(["--view".to_owned(), view.to_string()]);
        match request {
            Request::Rollback { version, .. } => arguments.extend(["rollback".to_owned(), version.to_string()]),
            // One word, so that an id that begins with a dash is no flag.
            Request::Recount { user_id } => {
                arguments.extend(["verify", "--recompute", "--live"].map(str::to_owned));
                arguments.push(format!("--key={user_id}"));
            }
        }
        arguments.push(format!("--speed-layer={}", self.speed_layer));
        CommandLine { environment: self.environment.clone(), program: program.display().to_string(), arguments }
    }

    fn find(&self, id: &str) -> Option<Arc<Action>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|action| action.id == id).cloned()
    }

    /// Starts it, unless another one goes.
    fn start(&self, request: Request, by: Identity, audit: Audit) -> Result<Arc<Action>, String> {
        let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() else {
            return Err("another action goes on; one goes at a time".to_owned());
        };
        let (line, id, began_us) = (self.line(&request), format!("{:032x}", self.machine.random()), now_us(&*self.machine));
        let act = request.act().by(&by).with("in", "console");
        let action = Arc::new(Action { id, request, by: by.name().to_owned(), line, began_us, outcome: Mutex::default() });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push(Arc::clone(&action));
        drop(known);
        let (done, machine, shutdown) = (Arc::clone(&action), Arc::clone(&self.machine), self.shutdown.clone());
        tokio::spawn(async move {
            let _turn = turn;
            audit.record(act.clone().begun()).await;
            // A server that stops ends what it has begun: nobody would hear of it any more.
            let ended = shutdown.run_until_cancelled(done_by(&done.line)).await;
            let (exit_code, said, complained) = ended.unwrap_or_else(|| (None, String::new(), "the server stopped".to_owned()));
            let ended = match exit_code {
                Some(0) => act,
                Some(code) => act.failed(&format!("exit code {code}")),
                None => act.failed("it did not end by itself"),
            };
            audit.record(ended).await;
            let outcome = Outcome { exit_code, said, complained, ended_us: now_us(&*machine) };
            *done.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        });
        Ok(action)
    }
}

/// The program by its setting: as it stands if it is a path, else what lies beside this one, else what the system finds under the name.
fn program(setting: &Path) -> Option<PathBuf> {
    if setting.as_os_str().is_empty() {
        return None;
    }
    let is_name = setting.components().count() == 1 && !setting.is_absolute();
    let beside = std::env::current_exe().ok().and_then(|this| Some(this.parent()?.join(setting)));
    Some(beside.filter(|beside| is_name && beside.is_file()).unwrap_or_else(|| setting.to_owned()))
}

/// Runs it to its end; the answer is its exit code, what it said, and what it complained of.
async fn done_by(line: &CommandLine) -> (Option<i32>, String, String) {
    let mut command = Command::new(&line.program);
    command.args(&line.arguments).envs(line.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            return (None, String::new(), format!("{} could not be started: {error}; console.batch_layer says where it is", line.program));
        }
    };
    let (said, complained) = (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
    let all = async { tokio::join!(bounded(said), bounded(complained), child.wait()) };
    let Ok((said, complained, status)) = timeout(PATIENCE, all).await else {
        return (None, String::new(), format!("it was ended after {}", words::age(PATIENCE)));
    };
    (status.ok().and_then(|status| status.code()), said, complained)
}

/// All that is said, of which the beginning is kept.
async fn bounded(mut from: impl AsyncRead + Unpin) -> String {
    let (mut kept, mut chunk, mut more) = (Vec::new(), vec![0; 8192], false);
    // What cannot be read any more is at its end.
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let room = MAX_SAID_BYTES - kept.len();
        kept.extend_from_slice(&chunk[..read.min(room)]);
        more |= read > room;
    }
    let mut text = String::from_utf8_lossy(&kept).into_owned();
    if more {
        text.push_str("\n… and more, which is not shown");
    }
    text
}

/// Begins what is asked for, if the token may, and goes to its page.
pub(super) async fn begin(console: &Console, request: Request, token: &str, peer: Peer) -> Response {
    let refused = async |status, reason: &str| shell::failed(console, status, "Nothing was done", reason).await;
    if console.actions.program.is_none() {
        return refused(StatusCode::FORBIDDEN, "console.batch_layer is empty: this console shows commands and runs none").await;
    }
    if !console.doors.are_locked() {
        return refused(StatusCode::FORBIDDEN, "This server has no tokens, so nobody may act in its console: set up [auth] first.").await;
    }
    let by = match console.doors.check(Some(token.trim()), &peer, Scope::Admin) {
        Ok(identity) => identity,
        Err(reason) => return refused(StatusCode::FORBIDDEN, &format!("The token is not let do that: {reason}.")).await,
    };
    match console.actions.start(request, by, console.doors.audit()) {
        Ok(action) => Redirect::to(&format!("/actions/{}", action.id)).into_response(),
        Err(reason) => refused(StatusCode::CONFLICT, &reason).await,
    }
}

pub(super) async fn show(State(console): State<Arc<Console>>, PathOf(id): PathOf<String>) -> Response {
    let Some(action) = console.actions.find(&id) else {
        let why = "It may have been long ago: the last sixteen are remembered, until the server is restarted.";
        return shell::failed(&console, StatusCode::NOT_FOUND, "There is no such action", why).await;
    };
    let outcome = action.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let title = match &action.request {
        Request::Rollback { view, version } => format!("Rollback of {view} to version {version}"),
        Request::Recount { user_id } => format!("Recount of {}", shell::shown(user_id)),
    };
    let again = if outcome.is_some() { Again::Never } else { Again::Soon };
    let body = html! {
        h1 { bdi { (title) } }
        div #action data-live { (outcome_of(&action, outcome.as_ref(), console.now_us())) }
        h2 { "The command" }
        (shell::copyable("command", &action.line.text()))
        p { (back(&action.request)) }
    };
    Page::new(&title, Tab::None, body).looking(again).show(&console).await
}

fn outcome_of(action: &Action, outcome: Option<&Outcome>, now_us: i64) -> Markup {
    let Some(outcome) = outcome else {
        return html! {
            p.state.goes role="status" { span.spinner aria-hidden="true" {} "It goes on, begun " (words::ago(action.began_us, now_us)) " by " (shell::foreign(&action.by)) "." }
        };
    };
    let (class, sign, verdict) = match outcome.exit_code {
        Some(0) => ("well", "✔", "It went well.".to_owned()),
        Some(code) => ("bad", "✕", format!("It ended with exit code {code}{}.", meaning(code))),
        None => ("bad", "✕", "It did not end by itself.".to_owned()),
    };
    let took = Duration::from_micros(u64::try_from(outcome.ended_us - action.began_us).unwrap_or(0));
    html! {
        p.state.(class) role="status" { span.sign aria-hidden="true" { (sign) } strong { (verdict) } " By " (shell::foreign(&action.by)) ", in " (words::seconds(took.as_secs_f64())) "." }
        @if !outcome.said.trim().is_empty() { pre.said tabindex="0" dir="ltr" { (shown_lines(&outcome.said)) } }
        @if !outcome.complained.trim().is_empty() {
            @if outcome.exit_code == Some(0) {
                details #log { summary { "Its log" } pre.said tabindex="0" dir="ltr" { (shown_lines(&outcome.complained)) } }
            } @else {
                pre.said tabindex="0" dir="ltr" { (shown_lines(&outcome.complained)) }
            }
        }
    }
}

/// What a program printed, without what would colour a terminal.
fn shown_lines(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = rest.strip_prefix(|c: char| c.is_ascii_alphabetic()).unwrap_or(rest);
    }
    plain.push_str(rest);
    plain.lines().map(shell::shown).collect::<Vec<_>>().join("\n")
}

fn meaning(code: i32) -> &'static str {
    match code {
        1 => ": it was refused, or failed, or the numbers differ",
        2 => ": its settings are wrong",
        3 => ": another run is at work, or was first; try again",
        4 => ": something that it needs is down; try again",
        _ => "",
    }
}

fn back(request: &Request) -> Markup {
    match request {
        Request::Rollback { view, .. } => html! { a href=(format!("/views/{view}")) { "Back to the view" } },
        Request::Recount { user_id } => html! { a href=(format!("/users?id={}", shell::query_value(user_id))) { "Back to the user" } },
    }
}

/// The form that asks for it, or the command where the console may not.
pub(super) fn offer(console: &Console, request: &Request, path: &str, name: &str, fields: &[(&str, &str)]) -> Markup {
    let line = console.actions.line(request).text();
    // An id has no spaces.
    let id = name.to_lowercase().replace(' ', "-");
    let may = console.actions.program.is_some() && console.doors.are_locked();
    html! {
        @if may {
            form.act method="post" action=(path) {
                @for (field, value) in fields { input type="hidden" name=(field) value=(value); }
                label for=(format!("token-{id}")) { "Token with the scope " code { "admin" } }
                input id=(format!("token-{id}")) type="password" name="token" required autocomplete="off";
                button type="submit" { (name) }
            }
            p.quiet { "It runs this command, which you may as well run yourself:" }
        } @else {
            p.quiet { "This server has no tokens, so its console only looks. The command that does it:" }
        }
        (shell::copyable(&format!("line-{id}"), &line))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use merganser_proto::auth::Authority;
    use storage::config::ConsoleConfig;
    use storage::machine::RealMachine;

    use super::*;

    fn actions(batch_layer: &str) -> Actions {
        let config =
            ConsoleConfig { batch_layer: batch_layer.into(), settings_file: Some("my settings.toml".into()), ..ConsoleConfig::default() };
        let options = ConsoleOptions {
            config,
            store_url: "data/store".to_owned(),
            speed_layer: "http://127.0.0.1:7401".to_owned(),
            ..ConsoleOptions::default()
        };
        Actions::of(&options, Arc::new(RealMachine), CancellationToken::new())
    }

    async fn outcome(action: &Action) -> Outcome {
        loop {
            if let Some(outcome) = action.outcome.lock().unwrap().clone() {
                return outcome;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Proves which words the program is started with, that an id is one of them and no flag, whatever it is, and that the line shows the same.
    #[test]
    fn words_of_the_program() {
        let actions = actions("/opt/batch-layer");
        let line = actions.line(&Request::Rollback { view: "by_item".parse().unwrap(), version: 3 });
        assert_eq!(
            line.text(),
            "MERGANSER_STORE__URL=data/store /opt/batch-layer --config 'my settings.toml' --view by_item rollback 3 --speed-layer=http://127.0.0.1:7401"
        );
        for user_id in ["--config", "a b; rm -rf /", "$(id)"] {
            let line = actions.line(&Request::Recount { user_id: user_id.to_owned() });
            let expected = ["verify", "--recompute", "--live", &format!("--key={user_id}"), "--speed-layer=http://127.0.0.1:7401"];
            assert_eq!(line.arguments[4..], expected.map(str::to_owned));
        }
    }

    /// Proves that what a program says and how it ends is shown, that one goes at a time, and that a program which is not there is no crash.
    #[tokio::test]
    async fn one_at_a_time() {
        let ann = Authority::off().identify(&HeaderMap::new(), &Peer::default()).unwrap();
        let start = |actions: &Actions| actions.start(Request::Recount { user_id: "u".to_owned() }, ann.clone(), Audit::off());
        let echo = actions("/bin/echo");
        let action = start(&echo).unwrap();
        assert!(start(&echo).is_err());
        let said = outcome(&action).await;
        assert_eq!((said.exit_code, said.said.contains("verify --recompute --live --key=u")), (Some(0), true));
        assert!(echo.find(&action.id).is_some() && echo.find("0").is_none());
        let failed = outcome(&start(&actions("/bin/false")).unwrap()).await;
        assert_eq!(failed.exit_code, Some(1));
        let absent = outcome(&start(&actions("/nowhere/batch-layer")).unwrap()).await;
        assert!(absent.exit_code.is_none() && absent.complained.contains("could not be started"), "{absent:?}");
    }

    /// Proves that a program which says more than is kept goes on to its end, and that this is told.
    #[tokio::test]
    async fn much_is_said() {
        let text = "x".repeat(MAX_SAID_BYTES + 1);
        let kept = bounded(text.as_bytes()).await;
        assert!(kept.len() < MAX_SAID_BYTES + 100 && kept.ends_with("which is not shown"));
        assert_eq!(bounded(&text.as_bytes()[1..]).await.len(), MAX_SAID_BYTES);
        assert_eq!(shown_lines("\x1b[2mred\x1b[0m\x1b[1;31m!\n\x07"), "red!\n␇");
    }

    /// Proves that a setting which is empty offers nothing, that a path stays one, and that a bare name may be found elsewhere.
    #[test]
    fn where_the_program_is() {
        assert_eq!(program(Path::new("")), None);
        assert_eq!(program(Path::new("/opt/batch-layer")), Some("/opt/batch-layer".into()));
        assert_eq!(program(Path::new("no-such-program")), Some("no-such-program".into()));
    }
}
