# What manager_bench calls by Cap'n Proto (manager_peer_capnp.cpp).
@0xd1f6c0a9b8e75342;

interface Echo {
  same @0 (n :Int32) -> (n :Int32);
  data @1 (value :Data) -> (value :Data);
  make @2 () -> (echo :Echo);
}
