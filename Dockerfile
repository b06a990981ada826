# SPDX-License-Identifier: Apache-2.0
# The agent and its tools as static binaries on an empty base. Builds from the repository alone: the generated code
# is committed, so no clang is needed. Run it privileged, in the host's network namespace, with the host's bpffs:
#
#   docker run --privileged --network host -v /sys/fs/bpf:/sys/fs/bpf -v /var/lib/eniplane:/var/lib/eniplane \
#     -v /etc/eniplane/feed:/etc/eniplane/feed:ro eniplane --host HOST --feed dir:/etc/eniplane/feed
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w" -o /out/ ./cmd/...

FROM scratch
COPY --from=build /out/ /usr/bin/
COPY LICENSES /usr/share/doc/eniplane/
ENTRYPOINT ["/usr/bin/enid"]
