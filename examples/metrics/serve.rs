//! `/metrics` over HTTP.

use std::{convert::Infallible, sync::Arc};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, SemaphorePermit},
};

use crate::scrape::Scrape;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many are served at once; others wait.
const MAX_CONNECTIONS: usize = 16;

static PLACES: Semaphore = Semaphore::const_new(MAX_CONNECTIONS);

/// Paths, and what is there.
pub type Places = Arc<[(&'static str, Arc<Registry>)]>;

pub async fn serve(listener: TcpListener, places: Places) {
    // It is never closed.
    while let Ok(place) = PLACES.acquire().await {
        match listener.accept().await {
            Ok((tcp, _)) => drop(tokio::spawn(connection(tcp, places.clone(), place))),
            Err(error) => eprintln!("not accepted: {error}"),
        }
    }
}

async fn connection(tcp: tokio::net::TcpStream, places: Places, _place: SemaphorePermit<'static>) {
    let service = service_fn(|request| {
        let response = answer(&request, &places);
        async { Ok::<_, Infallible>(response) }
    });
    // The timer: whoever says nothing keeps a place for 30 s.
    let mut http = http1::Builder::new();
    let served = http.timer(TokioTimer::new());
    let served = served.serve_connection(TokioIo::new(tcp), service);
    if let Err(error) = served.await {
        eprintln!("not served: {error}");
    }
}

fn answer(request: &Request<Incoming>, places: &Places) -> Response<String> {
    let path = request.uri().path();
    let place = places.iter().find(|(place, _)| *place == path);
    let (status, name, value, body) = match (request.method(), place) {
        (_, None) => {
            let paths: Vec<_> = places.iter().map(|(place, _)| *place).collect();
            let body = format!("see {}\n", paths.join(" and "));
            (StatusCode::NOT_FOUND, CONTENT_TYPE, "text/plain", body)
        }
        (&Method::GET | &Method::HEAD, Some((_, registry))) => match Scrape::of(registry) {
            Ok(scrape) => {
                let text = scrape.into_text();
                (StatusCode::OK, CONTENT_TYPE, OPEN_METRICS, text)
            }
            Err(error) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                (status, CONTENT_TYPE, "text/plain", error.to_string())
            }
        },
        (_, Some(_)) => {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            (status, ALLOW, "GET, HEAD", String::new())
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static(value);
    response.headers_mut().insert(name, value);
    response
}
