# A build job that fails with a checkpoint that is not whole: docs/gate.md. The build context holds model/ and
# model.manifest.json. The last stage takes the model from the gate, so no image is made without it.
ARG KEYLOAD_IMAGE=keyload:latest
ARG BASE=debian:bookworm-slim

FROM ${KEYLOAD_IMAGE} AS gate
COPY model/ /gate/model/
COPY model.manifest.json /gate/
RUN ["keyload", "check", "/gate/model", "--manifest", "/gate/model.manifest.json", "--strict"]

FROM ${BASE}
COPY --from=gate /gate/model/ /model/
