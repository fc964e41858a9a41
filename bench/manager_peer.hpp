// What manager_bench measures ours beside, built in where Debian's package is found.
#pragma once

namespace bench {

// Cap'n Proto's RPC: rows capnp/...; where libcapnp-dev was not found, one that says so.
void register_capnp();

}  // namespace bench
