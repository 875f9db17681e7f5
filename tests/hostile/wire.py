"""Calls of the contract by grpcio, with messages made from the .proto file when the tests run."""

import pathlib
import subprocess
import tempfile
import threading
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2

import daemon

PACKAGE = "keyload.v1"
SERVICE = f"{PACKAGE}.ModelLoaderService"
MESSAGE_LIMIT = 4 << 20  # gRPC's default, which the client keeps


def _read_contract():
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "contract"
        subprocess.run(["protoc", f"--proto_path={daemon.SOURCE_DIR}/proto", f"--descriptor_set_out={out}",
                        "--include_imports", "keyload/v1/model_loader.proto"], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    return pool


_POOL = _read_contract()
_METHODS = {method.name: method for method in _POOL.FindServiceByName(SERVICE).methods}


def message(name, **fields):
    """keyload.v1.NAME with `fields`; dictionaries stand for the messages inside."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))(**fields)


def spec(path, **fields):
    fields.setdefault("model", "attack")
    source = {"path": str(path), **fields.pop("source", {})}
    return message("LoadSpec", source=source, **fields)


def serialize(request):
    return request if isinstance(request, bytes) else request.SerializeToString()


def outcome_of(error):
    """The reason of a refused call; the name of gRPC's code where there is no reason."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return error.code().name


class Client:
    """One connection of its own. Every call answers with an outcome: a reason, a code, a load's outcome, or OK."""

    def __init__(self, target):
        self.channel = grpc.insecure_channel(target, options=[
            ("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", MESSAGE_LIMIT), ("grpc.enable_retries", 0)])
        self.answer = None  # of the last unary call that had one

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def stub(self, name):
        method = _METHODS[name]
        kind = {(False, False): "unary_unary", (False, True): "unary_stream", (True, False): "stream_unary",
                (True, True): "stream_stream"}[method.client_streaming, method.server_streaming]
        answer = message_factory.GetMessageClass(method.output_type)
        return getattr(self.channel, kind)(f"/{SERVICE}/{name}", request_serializer=serialize,
                                           response_deserializer=answer.FromString)

    def call(self, name, request, timeout=20, most=None):
        """Makes a call and reads its answers, of a stream `most` of them."""
        try:
            answer = self.stub(name)(request, timeout=timeout)
            if not _METHODS[name].server_streaming:
                self.answer = answer
                report = getattr(answer, "report", None)
                return _report_outcome(report) if report else "OK"
            for count, self.answer in enumerate(answer, 1):
                if count == most:
                    answer.cancel()
                    break
            return "OK"
        except grpc.RpcError as error:
            return outcome_of(error)

    def call_all(self, name, requests, seconds):
        """Makes all the calls at once on this connection; the outcomes of those that ended within `seconds`."""
        stub = self.stub(name)
        calls = [stub.future(request, timeout=seconds) for request in requests]
        deadline, outcomes = time.monotonic() + seconds + 1, []
        for call in calls:
            try:
                error = call.exception(max(deadline - time.monotonic(), 0))
                outcomes.append("OK" if error is None else outcome_of(error))
            except grpc.FutureTimeoutError:
                call.cancel()
        return outcomes

    def close(self):
        """Does not wait for calls that a silent daemon keeps open."""
        threading.Thread(target=self.channel.close, daemon=True).start()

    def plan(self, load_spec, timeout=20):
        return self.call("PlanLoad", message("PlanLoadRequest", spec=load_spec), timeout)

    def load(self, load_spec, timeout=20):
        return self.call("LoadModel", message("LoadModelRequest", spec=load_spec), timeout)

    def unload(self, model, timeout=20):
        return self.call("UnloadModel", message("UnloadModelRequest", model=model), timeout)

    def upload(self, kind, data, timeout=60):
        """Sends a document; returns the outcome and the digest."""
        self.answer = None
        outcome = self.call("UploadDocument", upload_chunks(kind, data), timeout)
        return outcome, self.answer.digest if outcome == "OK" else ""


def upload_chunks(kind, data, size=1 << 20):
    for start in range(0, len(data), size):
        yield message("UploadDocumentRequest", kind=f"KIND_{kind}" if start == 0 else 0, data=data[start:start + size])


def _report_outcome(report):
    return type(report).DESCRIPTOR.fields_by_name["outcome"].enum_type.values_by_number[report.outcome].name[
        len("OUTCOME_"):]
