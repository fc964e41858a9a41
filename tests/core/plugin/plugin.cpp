// A library for the tests of the module table. All have the same layout, but for one.
extern "C" {

int plugin_function(int x) { return x + 1000; }
extern const int plugin_constants[4];
const int plugin_constants[4] = {CONSTANT, 2, 3, 4};
// A constant once the library is relocated.
extern const int* const plugin_pointers[2];
const int* const plugin_pointers[2] = {plugin_constants, plugin_constants + 1};
int plugin_variables[4] = {VARIABLE, 2, 3, 4};
#ifdef LARGER
int plugin_more(int x) { return x * plugin_variables[x & 3]; }
#endif

}  // extern "C"
