use crate::admin::state::ApiState;
use axum::Router;
use axum::handler::Handler;
use axum::routing::{get, post};

/// Something that can be asked or ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path; parts in braces stand for values.
    pub path: &'static str,
}

/// What answers at which path: the router and the list that `docs/openapi.json` is compared with are made of one table.
#[derive(Default)]
pub struct RouteTable {
    router: Router<ApiState>,
    endpoints: Vec<Endpoint>,
}

impl RouteTable {
    /// Also a question.
    pub fn get<H: Handler<T, ApiState>, T: 'static>(mut self, path: &'static str, answer: H) -> Self {
        self.router = self.router.route(path, get(answer));
        self.endpoints.push(Endpoint { method: "GET", path });
        self
    }

    /// Also an order.
    pub fn post<H: Handler<T, ApiState>, T: 'static>(mut self, path: &'static str, answer: H) -> Self {
        self.router = self.router.route(path, post(answer));
        self.endpoints.push(Endpoint { method: "POST", path });
        self
    }

    /// Also those.
    pub fn merge(mut self, others: Self) -> Self {
        self.router = self.router.merge(others.router);
        self.endpoints.extend(others.endpoints);
        self
    }

    /// What answers.
    pub fn router(self) -> Router<ApiState> {
        self.router
    }

    /// What there is, in the order of the table.
    pub fn endpoints(self) -> Vec<Endpoint> {
        self.endpoints
    }
}
