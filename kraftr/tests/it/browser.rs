//! Chromium without a window, driven over `WebDriver` (W3C), which is a few calls over HTTP.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::program::{LOOK_AGAIN, PATIENCE, arg};

/// The key of an element's reference.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Browser {
    driver: Child,
    http: Client,
    session: String,
}

impl Browser {
    /// Starts a driver and a browser with a profile of its own under `scratch`.
    pub(crate) async fn start(scratch: &Path) -> Self {
        let missing =
            "chromedriver is needed: on Debian and Ubuntu, apt-get install chromium chromium-driver";
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect(missing);
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = lines
            .map_while(Result::ok)
            .find_map(|line| {
                line.strip_prefix("ChromeDriver was started successfully on port ")?
                    .trim_end_matches('.')
                    .parse()
                    .ok()
            })
            .expect("the driver says where it listens");
        let http = kraftr::client::http().build().unwrap();
        let profile = format!("--user-data-dir={}", arg(&scratch.join("browser")));
        // As root, as in a container, Chromium starts only without its sandbox.
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": { "args": arguments },
        } } });
        let mut browser = Self { driver, http, session: format!("http://127.0.0.1:{port}/session") };
        let started = browser.call(Method::POST, "", capabilities).await;
        browser.session = format!("{}/{}", browser.session, started["sessionId"].as_str().unwrap());
        browser
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.session));
        if method == Method::POST {
            request = request.json(&body);
        }
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["value"]["error"].is_null(), "{method} {path}: {answer}");
        answer["value"].clone()
    }

    pub(crate) async fn open(&self, url: &str) {
        self.call(Method::POST, "/url", json!({ "url": url })).await;
    }

    /// Chooses a file, as a file picker does.
    pub(crate) async fn choose(&self, selector: &str, file: &Path) {
        let found =
            self.call(Method::POST, "/element", json!({ "using": "css selector", "value": selector })).await;
        let path = format!("/element/{}/value", found[ELEMENT].as_str().unwrap());
        self.call(Method::POST, &path, json!({ "text": arg(file) })).await;
    }

    /// Runs a script's body and returns what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.call(Method::POST, "/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// The text of an element, empty where there is none.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector('{selector}')?.innerText ?? '';")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an element has these words in it.
    pub(crate) async fn reads(&self, selector: &str, words: &str) {
        let started = Instant::now();
        loop {
            let text = self.text(selector).await;
            if text.contains(words) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "waited in vain for {words:?} in {selector}: {text:?}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What is to be seen, as PNG.
    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        let picture = self.call(Method::GET, "/screenshot", Value::Null).await;
        BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap()
    }

    /// Closes the browser.
    pub(crate) async fn quit(self) {
        self.call(Method::DELETE, "", Value::Null).await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}
