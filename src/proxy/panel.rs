//! Carries requests to the panel and its answers back.

use super::api::read_form;
use super::{Ctx, HubProxy, Refusal, respond};
use crate::hub::{HubError, Own, Route};
use crate::panel::Panel;
use bytes::Bytes;
use http::{Method, Request, Response, header};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

impl HubProxy {
    /// Answers what the panel is asked; at the admin's door, whatever comes.
    pub(super) async fn panel(&self, session: &mut Session, ctx: &mut Ctx, route: Route) -> Result<(), Refusal> {
        ctx.from = "panel";
        let response = match self.panel_answer(session, route).await {
            Ok(Some(response)) => response,
            Ok(None) => return Ok(()),
            Err(Refusal::Hub(error)) => Panel::refuse(&error),
            Err(refusal) => return Err(refusal),
        };
        let mut head = ResponseHeader::build(response.status(), Some(response.headers().len() + 2))?;
        for (name, value) in response.headers() {
            head.append_header(name.clone(), value)?;
        }
        // Without the headers by which scripts of other sites may read it.
        head.insert_header(header::CONTENT_LENGTH, response.body().len())?;
        Ok(respond::prepared(session, head, response.into_body()).await?)
    }

    /// Returns nothing where the answer was written already.
    async fn panel_answer(&self, session: &mut Session, route: Route) -> Result<Option<Response<Bytes>>, Refusal> {
        let head = session.req_header();
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        let rights = self.panel.admit(self.door, &request).map_err(HubError::into_refusal)?;
        match route {
            Route::Panel | Route::Own(Own::Info | Own::Repos | Own::Index) => {}
            Route::Own(own) => return self.own(session, own).await.map(|()| None),
            _ => return Err(HubError::admins_only().into_refusal()),
        }
        if request.method() == Method::POST {
            *request.body_mut() = read_form(session).await?.1;
        }
        Ok(Some(self.panel.answer(self.door, rights, request).await))
    }
}

impl HubError {
    /// A client of the Hub has come to the admin's door.
    fn admins_only() -> HubError {
        let message = "this address has the mirror's page and admin API only; point clients to server.listen";
        HubError { status: 404, ..HubError::forbidden(message) }
    }
}
