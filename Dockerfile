# The image for those who build with docker. `cargo xtask image` makes the same without a daemon, and the same every time.
#   docker build --tag leasehold:0.1.0 .
FROM rust:1.95-bookworm AS build
WORKDIR /leasehold
COPY . .
# The target is named so that the flags are those of the program alone, not of what builds it.
RUN target="$(rustc --version --verbose | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --release --locked --package leasehold --bin leasehold --target "$target" \
 && mkdir -p /root-of-image/etc \
 && cp "target/$target/release/leasehold" /root-of-image/leasehold \
 && echo "nonroot:x:65532:65532:nonroot:/:/nologin" > /root-of-image/etc/passwd \
 && echo "nonroot:x:65532:" > /root-of-image/etc/group \
 && echo "hosts: files dns" > /root-of-image/etc/nsswitch.conf

FROM scratch
LABEL org.opencontainers.image.title="leasehold" \
      org.opencontainers.image.description="Kubernetes pods, leased into etcd" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /root-of-image /
# Each thread of glibc's allocator keeps what it frees, for itself: with one arena, a restarted operator takes a quarter
# less memory.
ENV MALLOC_ARENA_MAX=1
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/leasehold"]
CMD ["run"]
