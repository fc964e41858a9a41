// As core.hpp, for what uses pools.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/subprocess.hpp>
#include <sidestep/thread_pool.hpp>
