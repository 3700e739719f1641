# syntax=docker/dockerfile:1
# docker build -t dingospeed .
# docker run -d -p 8090:8090 -v dingospeed:/repos --stop-timeout 40 dingospeed

FROM rust:1-bookworm AS build
# zlib-ng, a dependency of pingora, is built by cmake.
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The cache mounts keep downloads and compiled dependencies between builds; what is in them is not part of a layer, which
# is why the binary is copied out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin dingospeed \
    && cp target/release/dingospeed /dingospeed

FROM debian:bookworm-slim
# The certificates are for TLS to the Hub; nothing else of the system is used.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /repos --shell /usr/sbin/nologin dingospeed \
    && install -d -o dingospeed -g dingospeed /repos
COPY --from=build /dingospeed /usr/local/bin/dingospeed
COPY conf/dingospeed.yaml /etc/dingospeed/dingospeed.yaml
COPY LICENSE /usr/share/doc/dingospeed/LICENSE

# By number, so that Kubernetes can see that it is not root.
USER 10001
# After its owner is set: a new named volume takes the owner from here. A mounted host directory must be writable by 10001.
VOLUME /repos
WORKDIR /repos
EXPOSE 8090
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["dingospeed", "status", "--repos", "/repos"]
ENTRYPOINT ["dingospeed"]
CMD ["serve", "--listen", "0.0.0.0:8090", "--repos", "/repos"]
