//! Marked and signed files to where the scheduler wants them.

use bytes::Bytes;
use kraftr_protocol::message::{Grant, Held, Link, Reply, Request, UploadRequest};
use kraftr_protocol::{ArtifactReport, Digest, Failure, FailureCode};
use kraftr_provenance::credentials::Signed;

use super::fetch::{HttpError, headers};
use super::{Ending, Pipeline, begins};
use crate::claim::{Answer, ask};
use crate::lease::Stop;
use crate::retry::Backoff;

/// How often an upload is repeated: for half a minute on average, as a fetch is.
const RETRIES: u32 = 16;

impl Pipeline {
    /// Uploads one artifact. Every try asks for a new link, so that a fenced claim stops here and a
    /// link that ran out is replaced.
    pub(super) async fn upload(
        &self,
        grant: &Grant,
        sample: u32,
        signed: &Signed,
    ) -> Result<ArtifactReport, Ending> {
        begins("upload");
        let body = Bytes::copy_from_slice(signed.bytes());
        let request = UploadRequest {
            held: Held { render: grant.render, epoch: grant.epoch },
            sample,
            sha256: Digest::of(&body),
            bytes: body.len() as u64,
            content_type: grant.spec.format.content_type().to_owned(),
        };
        let mut backoff = Backoff::new(RETRIES, grant.render.0.as_u128() as u64 ^ u64::from(sample));
        loop {
            let reason = match self.try_upload(&request, &body).await? {
                Ok(()) => break,
                Err(reason) => reason,
            };
            tracing::warn!(%reason, sample, "an artifact could not be uploaded");
            if !backoff.wait().await {
                let message = format!("an artifact could not be uploaded: {reason}");
                return Err(Failure::new(FailureCode::UploadFailed, message).into());
            }
        }
        Ok(ArtifactReport {
            sample,
            sha256: request.sha256,
            bytes: request.bytes,
            width: signed.width(),
            height: signed.height(),
            content_type: request.content_type,
        })
    }

    /// One try: why it did not work, or the end of the render where no other try can.
    async fn try_upload(&self, request: &UploadRequest, body: &Bytes) -> Result<Result<(), String>, Ending> {
        let link = match ask(&*self.transport, Request::Upload(request.clone())).await {
            Answer::Reply(Reply::UploadTo(link)) => link,
            Answer::Reply(Reply::Fenced) => return Err(Ending::Stopped { why: Stop::Fenced, step: 0 }),
            Answer::Reply(other) => return Ok(Err(format!("{other:?} does not answer an upload"))),
            Answer::Unavailable(reason) => return Ok(Err(reason)),
            Answer::Closed => return Err(Ending::Stopped { why: Stop::Lost, step: 0 }),
        };
        match self.put(&link, body.clone()).await {
            Ok(()) => Ok(Ok(())),
            Err(error) if error.is_passing() => Ok(Err(error.to_string())),
            Err(error) => {
                let message = format!("an artifact could not be uploaded: {error}");
                Err(Failure::new(FailureCode::UploadFailed, message).into())
            }
        }
    }

    async fn put(&self, link: &Link, body: Bytes) -> Result<(), HttpError> {
        let response = self.http.put(&link.url).headers(headers(link)?).body(body).send().await?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(HttpError::Status(status.as_u16())) }
    }
}
