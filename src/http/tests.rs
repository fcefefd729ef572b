//! Unit tests of the client, and the discipline of calls with a toy provider on loopback.

use super::*;

#[test]
fn urls_are_shown_without_secrets() {
    let url = "https://me:pw@host:8443/a%20b?X-Goog-Signature=abc#frag".parse().unwrap();
    assert_eq!(shown(&url), "https://host:8443/a%20b");
}

#[test]
fn refusals_say_what_the_server_said() {
    let said = |body: &str| match said(body.as_bytes()) {
        (None, None) => None,
        (code, message) => Some(format!("{} {}", code.unwrap_or_default(), message.unwrap_or_default())),
    };
    let oauth = r#"{"error":"invalid_grant","error_description":"gone"}"#;
    assert_eq!(said(oauth).as_deref(), Some("invalid_grant gone"));
    assert_eq!(said(r#"{"message":"no"}"#).as_deref(), Some(" no"));
    assert_eq!(said("quota\x1b[31m").as_deref(), Some(" quota [31m"));
    for silent in ["", "<html>long page", "{}", "{\"error\":{}}"] {
        assert_eq!(said(silent), None, "{silent}");
    }
}

#[test]
fn what_was_confided_is_masked() {
    let mut token = reqwest::header::HeaderValue::from_static("Bearer hush");
    token.set_sensitive(true);
    let request = reqwest::Client::new()
        .post("http://h/")
        .header("authorization", token)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body("grant_type=refresh_token&refresh_token=1%2F%2Fquiet&client_secret=");
    let confided = Confided::of(&request.build().unwrap());
    let text = "authorization: Bearer hush, refresh_token=1//quiet".to_owned();
    assert_eq!(confided.mask(text), "authorization: Bearer ***, refresh_token=***");
}

#[test]
fn waits_are_read_from_seconds_and_dates() {
    let read = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
    assert_eq!(read("7"), Some(Duration::from_secs(7)));
    assert_eq!(read("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
    assert_eq!(read("soon"), None);
}

#[test]
fn only_passing_troubles_are_transient() {
    let status = |code: u16, reason: Option<&str>| Error::Status {
        url: String::new(),
        status: StatusCode::from_u16(code).unwrap(),
        reason: reason.map(String::from),
        retry_after: None,
    };
    for code in [408, 429, 500, 502, 503, 504] {
        assert!(status(code, None).is_transient(), "{code}");
    }
    for code in [400, 401, 403, 404, 410, 412, 416, 501] {
        assert!(!status(code, None).is_transient(), "{code}");
    }
    assert!(!status(403, Some("Slow down (rateLimitExceeded)")).is_transient());
}

/// The discipline, as a provider's calls meet it.
mod discipline {
    use std::sync::Arc;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

    use reqwest::header::AUTHORIZATION;
    use serde::Deserialize;

    use super::super::fake::{Asked, Fake, Said};
    use super::*;

    const FAST: Retry =
        Retry { tries: 4, first: Duration::from_millis(1), longest: Duration::from_millis(20) };

    /// Gives the tokens `hush-1`, `hush-2`, …
    struct Toy {
        token: Renewing<Token>,
        given: AtomicU32,
        asked: AtomicU32,
    }

    #[derive(Clone, PartialEq)]
    struct Token(String);

    impl Expires for Token {
        fn is_valid_for(&self, _: Duration) -> bool {
            true
        }
    }

    impl Access for Toy {
        type Proof = Token;

        async fn proof(&self) -> Result<Token, CallError> {
            let next = || async {
                let n = self.given.fetch_add(1, Ordering::Relaxed) + 1;
                Ok::<_, CallError>(Token(format!("hush-{n}")))
            };
            self.token.get("toy", next).await
        }

        async fn refused(&self, token: &Token, error: &CallError) -> Result<bool, CallError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.token.refused(token).await;
            Ok(error.class() == Some(Class::Expired))
        }
    }

    impl Authorize for Toy {
        fn sign(&self, token: &Token, request: &mut Request) -> Result<(), CallError> {
            let value = bearer(&Secret::from(token.0.clone())).unwrap();
            request.headers_mut().insert(AUTHORIZATION, value);
            Ok(())
        }
    }

    /// `CODE MESSAGE`
    fn read(refused: &Refused<'_>) -> Refusal {
        let text = String::from_utf8_lossy(refused.body).into_owned();
        let (code, message) = text.split_once(' ').unwrap_or((&text, ""));
        let class = if code == "FULL" { Class::Capacity } else { Class::of_status(refused.status) };
        Refusal { code: clean(code), message: clean(message), class, ..refused.plain() }
    }

    struct Bench {
        fake: Fake,
        service: Service<Toy>,
    }

    impl Bench {
        async fn new(handler: impl FnMut(&Asked) -> Said + Send + 'static) -> Self {
            Self::with(FAST, (4, 4), Fake::start(handler).await)
        }

        fn with(retry: Retry, places: (usize, usize), fake: Fake) -> Self {
            let limits = Limits { connect: Duration::from_secs(20), idle: Duration::from_secs(20) };
            let http = Client::direct(limits, retry.clone()).unwrap();
            let toy = Toy {
                token: Renewing::new(Duration::ZERO, Duration::ZERO),
                given: AtomicU32::new(0),
                asked: AtomicU32::new(0),
            };
            let calls = Calls::new("toy", retry, places.0, places.1);
            Self { fake, service: Service::new(http, calls, toy, read) }
        }

        /// Answers these one after the other, then with 200.
        async fn script(answers: &[(u16, &str)]) -> Self {
            let answers: Vec<Said> = answers.iter().map(|(s, b)| (*s, (*b).to_owned())).collect();
            let mut answers = answers.into_iter();
            Self::new(move |_| answers.next().unwrap_or_else(|| (200, r#"{"n":7}"#.into()))).await
        }

        fn url(&self, path: &str) -> Url {
            format!("{}{path}", self.fake.url).parse().unwrap()
        }

        fn get(&self) -> Call<'_, Toy> {
            self.service.get("things.get", self.url("/thing"))
        }

        fn requests(&self) -> usize {
            self.fake.journal().len()
        }
    }

    #[derive(Deserialize)]
    struct Thing {
        n: u32,
    }

    #[tokio::test]
    async fn credentials_are_renewed_once_and_only_once() {
        let bench = Bench::new(|asked| match asked.headers["authorization"].as_str() {
            "Bearer hush-2" => (200, r#"{"n":7}"#.into()),
            _ => (401, "OLD".into()),
        })
        .await;
        assert_eq!(bench.get().read::<Thing>().await.unwrap().n, 7);
        assert_eq!(bench.requests(), 2);
        assert_eq!(bench.get().read::<Thing>().await.unwrap().n, 7);
        assert_eq!(bench.requests(), 3);

        let bench = Bench::new(|_| (401, "OLD".into())).await;
        let e = bench.get().send().await.unwrap_err();
        assert_eq!((e.class(), bench.requests()), (Some(Class::Expired), 2));
        assert_eq!(bench.service.access().asked.load(Ordering::Relaxed), 1);
        // Renewing is no try of those that do their work twice either.
        let post = bench.service.post("things.insert", bench.url("/things")).repeat(Repeat::Never);
        assert!(post.send().await.is_err());
        assert_eq!(bench.requests(), 4);
    }

    #[tokio::test]
    async fn refusals_are_repeated_by_their_class() {
        for (status, body, requests) in [
            (429, "SLOW", 2),
            (500, "OOPS", 2),
            (503, "OOPS", 2),
            (500, "FULL", 1),
            (501, "NEVER", 1),
            (400, "WRONG", 1),
            (403, "NOT-YOU", 1),
            (404, "GONE", 1),
        ] {
            let bench = Bench::script(&[(status, body)]).await;
            let outcome = bench.get().send().await;
            assert_eq!((outcome.is_ok(), bench.requests()), (requests == 2, requests), "{status} {body}");
        }
        let bench = Bench::new(|_| (503, "OOPS it is broken".into())).await;
        let e = bench.get().send().await.unwrap_err();
        assert_eq!(e.to_string(), "things.get: OOPS: it is broken (HTTP 503)");
        assert_eq!((e.code(), bench.requests()), (Some("OOPS"), 4));
    }

    #[tokio::test]
    async fn what_may_have_been_done_is_repeated_by_rule() {
        // (answer, rule, requests)
        for (lost, repeat, requests) in [
            ((0, ""), Repeat::Freely, 2),
            ((0, ""), Repeat::IfNotExecuted, 1),
            ((0, ""), Repeat::Never, 1),
            ((500, "OOPS"), Repeat::Freely, 2),
            ((500, "OOPS"), Repeat::IfNotExecuted, 1),
            ((500, "OOPS"), Repeat::Never, 1),
            ((429, "SLOW"), Repeat::Freely, 2),
            ((429, "SLOW"), Repeat::IfNotExecuted, 2),
            ((429, "SLOW"), Repeat::Never, 1),
        ] {
            let bench = Bench::script(&[lost]).await;
            let doubt = AtomicBool::new(false);
            let post = bench.service.post("things.insert", bench.url("/things")).repeat(repeat);
            let outcome = post.doubt(&doubt).json(&7).send().await;
            assert_eq!((outcome.is_ok(), bench.requests()), (requests == 2, requests), "{lost:?} {repeat:?}");
            assert_eq!(doubt.load(Ordering::Relaxed), requests == 2 && lost.0 != 429, "{lost:?} {repeat:?}");
            if let Err(e) = outcome {
                assert_eq!(e.is_certain(), lost.0 == 429, "{lost:?}");
            }
        }
        // Nobody listens: surely not executed.
        let bench = Bench::script(&[]).await;
        let nowhere = "http://127.0.0.1:1/".parse().unwrap();
        let e = bench.service.post("things.insert", nowhere).send().await.unwrap_err();
        assert!(e.is_certain() && e.is_transient(), "{e}");
    }

    #[tokio::test]
    async fn methods_have_their_rules() {
        for (method, requests) in
            [(Method::GET, 2), (Method::PUT, 2), (Method::DELETE, 2), (Method::POST, 1), (Method::PATCH, 1)]
        {
            let bench = Bench::script(&[(500, "OOPS")]).await;
            let _ = bench.service.call("things.x", method.clone(), bench.url("/thing")).send().await;
            assert_eq!(bench.requests(), requests, "{method}");
        }
    }

    #[tokio::test]
    async fn what_is_not_visible_yet_is_waited_for() {
        let hidden = [(404, "NO"); 5];
        let bench = Bench::script(&hidden).await;
        assert!(bench.get().send().await.unwrap_err().is_not_found());
        assert_eq!(bench.requests(), 1);
        let bench = Bench::script(&hidden).await;
        assert_eq!(bench.get().patient().read::<Thing>().await.unwrap().n, 7);
        // More of them than tries: they spend none.
        assert_eq!(bench.requests(), 6);
        let bench = Bench::new(|_| (404, "NO".into())).await;
        assert!(bench.get().patient().send().await.is_err());
        assert_eq!(bench.requests(), 1 + PATIENT as usize);
    }

    #[tokio::test]
    async fn places_are_bounded_each_kind_by_its_own() {
        let calls = Calls::new("toy", FAST, 2, 3);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        for (lane, places) in [(Lane::Control, 2), (Lane::Data, 3)] {
            most.store(0, Ordering::Relaxed);
            let how = How { lane, ..How::new(Repeat::Freely) };
            let once = |(): &()| async {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
                now.fetch_sub(1, Ordering::Relaxed);
                Ok::<_, CallError>(())
            };
            let all = (0..20).map(|_| calls.run(&Open, how, once));
            assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
            assert_eq!(most.load(Ordering::Relaxed), places, "{lane:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_not_held_between_tries() {
        let calls = Calls::new("toy", Retry { first: Duration::from_secs(5), ..Retry::default() }, 1, 1);
        let refusal = Refusal { status: 503, class: Class::Trouble, ..Refusal::default() };
        let slow = calls.run(&Open, How::new(Repeat::Freely), |()| {
            let refusal = Box::new(refusal.clone());
            async { Err::<(), _>(CallError::Refused { call: "x".into(), refusal }) }
        });
        let started = tokio::time::Instant::now();
        let quick = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let done = calls.run(&Open, How::new(Repeat::Freely), |()| async { Ok(()) }).await;
            (done.is_ok(), started.elapsed() < Duration::from_secs(1))
        };
        assert_eq!(tokio::join!(slow, quick).1, (true, true));
    }

    #[tokio::test]
    async fn the_server_says_when_to_come_back() {
        let mut answers = 0;
        let fake = Fake::with_headers(move |_| {
            answers += 1;
            let (status, wait) = if answers == 1 { (429, "1") } else { (200, "0") };
            (status, vec![("retry-after", wait)], "{}".into())
        })
        .await;
        let retry = Retry { longest: Duration::from_secs(60), ..FAST };
        let bench = Bench::with(retry, (1, 1), fake);
        let started = std::time::Instant::now();
        bench.get().send().await.unwrap();
        assert!(started.elapsed() >= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn secrets_come_back_masked() {
        let bench = Bench::new(|asked| (400, format!("SAID {:?}", asked.headers))).await;
        let e = crate::text::chain(&bench.get().send().await.unwrap_err());
        assert!(e.contains("Bearer ***") && !e.contains("hush"), "{e}");
        // Those of forms, and others that the caller names.
        let bench = Bench::new(|asked| (400, format!("SAID {:?}", asked.form))).await;
        let form = ("application/x-www-form-urlencoded", "client_secret=quiet&other=lull");
        let post = bench.service.post("token", bench.url("/token")).body(form.0, form.1);
        let e = post.send().await.unwrap_err().to_string();
        assert!(e.contains("lull") && !e.contains("quiet"), "{e}");
        let call = std::borrow::Cow::Borrowed("token");
        let confided = [Secret::from("lull".to_owned())];
        let exchange = Exchange {
            call: &call,
            accepted: &[],
            limit: 100,
            waits: std::time::Duration::ZERO,
            read,
            confided: &confided,
        };
        let request = bench.service.http().request(Method::POST, bench.url("/token"));
        let request = request.header(CONTENT_TYPE, form.0).body(form.1).build().unwrap();
        let e = bench.service.http().exchange(request, exchange).await.unwrap_err().to_string();
        assert!(!e.contains("lull") && !e.contains("quiet"), "{e}");
        let headers = HeaderMap::new();
        let e = exchange.late_refusal(StatusCode::INTERNAL_SERVER_ERROR, &headers, b"SAID lull").to_string();
        assert_eq!(e, "token: SAID: *** (HTTP 500)");
    }

    #[tokio::test]
    async fn what_cannot_be_understood_is_said_without_its_content() {
        let bench = Bench::new(|_| (200, r#"{"n":"hush"}"#.into())).await;
        let e = bench.get().read::<Thing>().await.err().unwrap().to_string();
        assert!(e.contains("things.get") && e.contains("column") && !e.contains("hush"), "{e}");
        let bench = Bench::new(|_| (200, "{}".into())).await;
        let e = bench.get().read::<Thing>().await.err().unwrap().to_string();
        assert!(e.contains("n is missing"), "{e}");
    }

    #[tokio::test]
    async fn listings_are_read_to_the_end_and_no_further() {
        #[derive(Deserialize)]
        struct Page {
            next: Option<String>,
        }
        let next = |page: &Page, at: &Url| page.next.as_ref().and_then(|n| at.join(n).ok());
        let pages = async |answer: fn(&str) -> &'static str| {
            let journal = Arc::new(Mutex::new(0));
            let seen = journal.clone();
            let bench = Bench::new(move |asked| {
                *seen.lock().unwrap() += 1;
                (200, answer(&asked.path).into())
            })
            .await;
            let read = bench.service.pages::<Page>("things.list", bench.url("/1"), next).await;
            (read.map(|p| p.len()).map_err(|e| e.to_string()), *journal.lock().unwrap())
        };
        let all = pages(|path| {
            if path == "/3" {
                "{}"
            } else if path == "/1" {
                r#"{"next":"2"}"#
            } else {
                r#"{"next":"3"}"#
            }
        });
        assert_eq!(all.await, (Ok(3), 3));
        let (outcome, asked) = pages(|_| r#"{"next":"/1"}"#).await;
        assert!(outcome.unwrap_err().contains("the same page again") && asked == 1);
        let (outcome, asked) = pages(|_| r#"{"next":"http://elsewhere.test/2"}"#).await;
        assert!(outcome.unwrap_err().contains("another server") && asked == 1);
    }
}
