// Compiled once for each test program, not once for each of its files. Sources include what they
// use all the same: with -Db_pch=false nothing of this is there.
#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/process.hpp>
#include <sidestep/subprocess.hpp>
