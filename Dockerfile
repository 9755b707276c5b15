# The image: one static binary, an ordinary user, nothing else. docs/packages.md says how to run it; it needs the
# seccomp profile that scripts/seccomp-profile makes.
ARG BUILDER=docker.io/library/rust:1.95-slim-bookworm

FROM ${BUILDER} AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY src src
# What the daemon says of itself: `git rev-parse HEAD`, and the time of that commit.
ARG DISPATCH_COMMIT=DEV
ARG DISPATCH_BUILD_TIME=
# Static with glibc, whose allocator keeps many threads apart, which musl's does not; it looks names up in /etc/hosts
# and DNS by itself. A target that is named keeps these flags from programs that the build itself runs.
RUN target="$(rustc --print host-tuple)" \
    && export RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/usr/local/cargo=/cargo" \
    && cargo build --release --locked --bin dispatch --target "$target" --target-dir /target \
    && cp "/target/$target/release/dispatch" /dispatch

FROM scratch
LABEL org.opencontainers.image.title="dispatch" \
      org.opencontainers.image.description="Streams TCP and UDP devices to drivers over WebSockets, on io_uring" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /dispatch /dispatch
# By number, as there is no /etc/passwd; Kubernetes can so tell that it is not root.
USER 10001:10001
EXPOSE 8080
# A second more than the check itself waits for an answer.
HEALTHCHECK --interval=30s --timeout=6s --start-period=10s --retries=3 \
    CMD ["/dispatch", "-c", "http://127.0.0.1:8080/api/dispatch/v1/healthz"]
# Compose files that give a command of their own repeat the program's name; it is taken for what it is.
ENTRYPOINT ["/dispatch"]
CMD ["/dispatch", "-b", "0.0.0.0", "-p", "8080"]
