# Sourced by the commands in this folder: sees to it that Debian's packages are there.
#
# Nothing is installed that is there already, and the network is not touched when nothing is missing.

# What a build needs, what the tests need on top, what CI needs beyond that, what tools/package needs,
# what tools/bench needs (the peers that ours are measured beside), and what tools/docs needs: to make the
# site, and to run the code in it.
build_packages="g++ meson ninja-build pkg-config libboost-dev libcereal-dev libfmt-dev libdw-dev
    libssl-dev libspdlog-dev"
test_packages="catch2 python3 libasio-dev"
# What cluster/ is built with, and what its tests launch and make hosts of; where they are missing,
# neither is built, and the tests are skipped.
mpi_packages="libopenmpi-dev openmpi-bin libmpich-dev mpich iproute2 util-linux"
ci_packages="ccache clang cmake libgtest-dev clang-format libclang-rt-dev libbenchmark-dev universal-ctags git strace
    python3-dev pybind11-dev clang-19 lld libbz2-dev libc++-dev libc++abi-dev"
arm_packages="g++-aarch64-linux-gnu qemu-user"
package_packages="dpkg-dev debhelper lintian cmake"
bench_packages="libbenchmark-dev python3 python3-dev pybind11-dev python3-joblib python3-billiard
    python3-pebble python3-mpi4py openmpi-bin parallel cmake libzmq3-dev
    libiceoryx-posh-dev iceoryx libcapnp-dev capnproto libgrpc++-dev protobuf-compiler-grpc
    libprotobuf-dev libcaf-dev libtbb-dev"
docs_packages="python3 python3-sphinx furo python3-myst-parser doxygen pkg-config libgtest-dev catch2 gdb
    libasio-dev"

need_packages() {
    missing=""
    for package in "$@"; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "Installing$missing (a minute or two)" >&2
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        as_root=sudo
        if ! command -v sudo >/dev/null; then
            echo "These packages are missing, and there is no sudo: as root, run" >&2
            echo "    apt-get install$missing" >&2
            exit 1
        fi
    fi
    $as_root apt-get update -qq
    # shellcheck disable=SC2086  # one word a package
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        $missing >/dev/null
}

# configure FOLDER [MESON OPTION]...: sets a build folder up once.
configure() {
    folder=$1
    shift
    [ -f "$folder/build.ninja" ] || meson setup "$folder" "$@" >"$folder.log" 2>&1 || {
        cat "$folder.log" >&2
        exit 1
    }
    rm -f "$folder.log"
}

# build FOLDER [TARGET]...: builds, and shows how far it is: on a terminal in one line that moves (as
# ninja does by itself), elsewhere in one line at the beginning and one at the end. What the compiler
# says is shown when something fails.
build() {
    folder=$1
    shift
    if [ -t 1 ]; then
        NINJA_STATUS="building [%f of %t steps, %es] " ninja -C "$folder" "$@" || exit 1
        return
    fi
    began=$(date +%s)
    echo "Building in $folder (the first time takes a minute or two)"
    ninja -C "$folder" "$@" >"$folder.log" || { cat "$folder.log" >&2; exit 1; }
    echo "Built in $(($(date +%s) - began)) s"
}
