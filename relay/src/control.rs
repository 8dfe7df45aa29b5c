//! What operators and back ends ask over HTTP, on one thread with a runtime of its own: `/metrics`, `/healthz`, `/readyz`.
//!
//! It never touches what the shards work with: it reads what they publish. The same thread looks at all of that once a
//! second and writes a line about what should not happen ([`watch`]).

mod view;
mod watch;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

pub use self::view::{Phase, View};
use crate::metrics;

/// Connections at once: one more ends the one that is there longest.
const CONNECTIONS_MAX: usize = 64;
/// How long the head of a request may take, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may last: scrapers that keep one open come again.
const LIFETIME: Duration = Duration::from_mins(5);
/// Size of a request's head, bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Wait after a failed accept: out of descriptors, most likely, which does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Takes the address where the control thread will listen; who connects waits until it is started.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Starts the thread. It ends with the process.
pub fn start(listener: Option<TcpListener>, view: Arc<View>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("control".into()).spawn(move || {
        LocalSet::new().block_on(&runtime, async move {
            if let Some(listener) = listener {
                spawn_local(serve(listener, view.clone()));
            }
            watch::run(&view).await;
        });
    })?;
    Ok(())
}

async fn serve(listener: TcpListener, view: Arc<View>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("it was made for this");
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS_MAX
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let view = view.clone();
        let answering = service_fn(move |request| {
            let response = answer(&request, &view);
            async { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), answering);
        // Who is slow, or gone, gets no answer.
        let task = spawn_local(async { drop(timeout(LIFETIME, connection).await) });
        connections.push_back(task.abort_handle());
    }
}

fn answer(request: &Request<Incoming>, view: &View) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let (status, kind, body) = match path {
        "/metrics" => (StatusCode::OK, PROMETHEUS, metrics::text(&view.families())),
        "/healthz" => verdict(view.health()),
        "/readyz" => verdict(view.ready()),
        _ => {
            let body = "nothing here; there are /metrics, /healthz and /readyz\n".to_owned();
            (StatusCode::NOT_FOUND, TEXT, body)
        }
    };
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let (status, kind, body) = if is_read || status == StatusCode::NOT_FOUND {
        (status, kind, body)
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("{path} is for GET and HEAD\n"))
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn verdict(found: Result<(), String>) -> (StatusCode, &'static str, String) {
    match found {
        Ok(()) => (StatusCode::OK, TEXT, "ok\n".into()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
    }
}
