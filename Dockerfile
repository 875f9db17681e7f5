# keyloadd in a container. Targets: runtime (the daemon and the keyload command) and test (with the mock client).
# deploy/base-image.sh prints a BASE that works where no registry can be reached.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS tools
WORKDIR /src
COPY scripts/bootstrap.sh scripts/
RUN scripts/bootstrap.sh build && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /root/.cache

# LibTorch's CPU half and the libraries that it is linked to, found through the linker's cache.
FROM tools AS torch
RUN cp -r .venv/libtorch/lib /opt/torch \
    && strip --strip-unneeded /opt/torch/libtorch_cpu.so /opt/torch/libc10.so

FROM ${BASE} AS libraries
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
       libabsl20220623 libfmt9 libgrpc++1.51 libprometheus-cpp-pull1.0 libprotobuf32 libre2-9 libsimdjson14 libspdlog1.10 libssl3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /var/cache/debconf/*-old /var/log/*
# Fixed, so that volumes and Kubernetes security contexts can name it. A named volume mounted on /run/keyload,
# /var/lib/keyload or /work starts as a copy of the directory here, owner included.
RUN groupadd --gid 10001 keyload \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin keyload \
    && install -d -o keyload -g keyload -m 0770 /run/keyload \
    && install -d -o keyload -g keyload -m 0770 /work \
    && install -d -o keyload -g keyload -m 0700 /var/lib/keyload \
    && install -d -m 0755 /models
COPY --from=torch /opt/torch/ /usr/local/lib/keyload/
RUN echo /usr/local/lib/keyload >/etc/ld.so.conf.d/keyload.conf && ldconfig

FROM tools AS build
COPY . .
RUN cmake --preset release -DKEYLOAD_PEERS=OFF -DCMAKE_SKIP_RPATH=ON -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O2 -DNDEBUG" \
    && cmake --build build/release --target keyloadd keyload keyload-mock \
    && strip build/release/bin/keyloadd build/release/bin/keyload build/release/bin/keyload-mock build/release/lib/*.so

FROM libraries AS runtime
COPY --from=build /src/build/release/lib/libkeyload_tensor_torch.so /usr/local/lib/
COPY --from=build /src/build/release/bin/keyloadd /src/build/release/bin/keyload /usr/local/bin/
COPY --from=build /src/build/release/share/keyload/ /usr/local/share/keyload/
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["keyload", "--timeout", "3s", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["keyloadd"]

FROM runtime AS test
COPY --from=build /src/build/release/bin/keyload-mock /usr/local/bin/
COPY tests/integration/scenarios /scenarios
HEALTHCHECK NONE
ENTRYPOINT ["keyload-mock"]
CMD ["--server", "unix:/run/keyload/keyload.sock", "--work-dir", "/work", "/scenarios"]
