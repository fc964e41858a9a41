// A library for the test of the module table.
extern "C" int plugin_function(int x) { return x + PLUGIN_NUMBER; }
