//! The real Chromium, without a window, driven by WebDriver (W3C) through `chromedriver`. The Debian packages are
//! `chromium` and `chromium-driver`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::http::Http;
use crate::scratch::Scratch;
use crate::side::{TOKEN, free_port};
use crate::skip::Skip;
use crate::wait_for;

/// How long the driver may take to start.
const START_MAX: Duration = Duration::from_secs(60);

/// A browser with one page. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    http: Http,
    session: String,
    _profile: Scratch,
}

impl Browser {
    /// Starts it.
    ///
    /// # Errors
    /// Why it cannot be had here.
    pub fn start() -> Result<Self, Skip> {
        let no = |why: String| Skip::curable(format!("{why}; the packages are chromium and chromium-driver"));
        let found = Command::new("chromedriver").arg("--version").output();
        if let Err(error) = found {
            return Err(no(format!("cannot run chromedriver ({error})")));
        }
        Self::open().map_err(|error| no(format!("Chromium does not start: {error:#}")))
    }

    fn open() -> Result<Self> {
        let profile = Scratch::new("chromium")?;
        let port = free_port()?;
        let mut command = Command::new("chromedriver");
        command
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // What it writes goes where the test cleans up.
        command.env("HOME", profile.path()).env("TMPDIR", profile.path());
        let driver = command.spawn()?;
        let mut browser = Self { driver, http: Http::new(port), session: String::new(), _profile: profile };
        wait_for("chromedriver answers", START_MAX, || Ok(browser.http.get("/status").ok().map(drop)))?;
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            "--no-first-run",
            "--disable-background-networking",
            "--window-size=1280,900",
            &format!("--user-data-dir={}", browser._profile.join("profile").display()),
        ];
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let body = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let answer = browser.post("/session", &body)?;
        let session = answer["sessionId"].as_str().context("the driver gives no session")?;
        browser.session = format!("/session/{session}");
        Ok(browser)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self
            .http
            .ask("POST", path, &[("content-type", "application/json")], &body.to_string())?
            .json()?;
        if let Some(error) = answer["value"].get("error").and_then(Value::as_str) {
            bail!("{path}: {error}: {}", answer["value"]["message"]);
        }
        Ok(answer["value"].clone())
    }

    fn command(&self, name: &str, body: &Value) -> Result<Value> {
        self.post(&format!("{}/{name}", self.session), body)
    }

    /// Goes to a page and waits until it is there.
    pub fn go(&self, url: &str) -> Result<()> {
        self.command("url", &json!({ "url": url })).map(drop)
    }

    /// Runs a function's body in the page; what it returns.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.command("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Chooses files, or a folder, in the input of a page that a CSS selector names, as a person does in the dialog.
    pub fn choose(&self, input: &str, paths: &[&Path]) -> Result<()> {
        let found = self.command("element", &json!({ "using": "css selector", "value": input }))?;
        let id = found.as_object().and_then(|found| found.values().next()?.as_str());
        let id = id.with_context(|| format!("there is no {input}"))?;
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        self.command(&format!("element/{id}/value"), &json!({ "text": paths.join("\n") })).map(drop)
    }

    /// Signs in to a dashboard with [`TOKEN`].
    pub fn sign_in(&self, dashboard: &Http) -> Result<()> {
        self.go(&format!("{}/sign-in", dashboard.origin()))?;
        self.run(&format!(
            "const token = document.getElementById('token'); token.value = {}; token.form.submit();",
            json!(TOKEN)
        ))?;
        wait_for("the browser is signed in", START_MAX, || {
            let text = self.run("return document.body.textContent")?;
            Ok(text.as_str().is_some_and(|text| text.contains("Sign out")).then_some(()))
        })
    }

    /// A command of the DevTools protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.command("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Makes the window so wide and high, that of a phone if it is to be one, and light or dark.
    pub fn look(&self, width: u32, height: u32, is_phone: bool, scheme: &str) -> Result<()> {
        let scale = if is_phone { 2 } else { 1 };
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics)?;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &features).map(drop)
    }

    /// Presses the key Tab.
    pub fn press_tab(&self) -> Result<()> {
        self.press(&json!({ "type": "rawKeyDown", "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9 }))
    }

    /// Presses the key Enter, which sends a form off.
    pub fn press_enter(&self) -> Result<()> {
        let down = json!({ "type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r" });
        self.press(&down)
    }

    fn press(&self, down: &Value) -> Result<()> {
        self.devtools("Input.dispatchKeyEvent", down)?;
        let up = json!({ "type": "keyUp", "key": down["key"], "code": down["code"] });
        self.devtools("Input.dispatchKeyEvent", &up).map(drop)
    }

    /// Keeps a picture of what is seen, or of the whole page, and returns where.
    pub fn picture(&self, folder: &Path, name: &str, whole: bool) -> Result<PathBuf> {
        let shot = self.devtools(
            "Page.captureScreenshot",
            &json!({ "format": "png", "captureBeyondViewport": whole }),
        )?;
        let data = shot["data"].as_str().context("there is no picture")?;
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, base64::prelude::BASE64_STANDARD.decode(data)?)?;
        Ok(path)
    }

    /// What the console says of errors since it was last asked: scripts that failed, and what the page's policy stopped.
    pub fn errors(&self) -> Result<Vec<String>> {
        let log = self.command("se/log", &json!({ "type": "browser" }))?;
        let entries = log.as_array().context("the log is no list")?;
        let severe = entries.iter().filter(|entry| entry["level"] == "SEVERE");
        Ok(severe.map(|entry| entry["message"].to_string()).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // So that it ends the browser; the driver is ours to end.
        if !self.session.is_empty() {
            let _ = self.http.ask("DELETE", &self.session, &[], "");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
